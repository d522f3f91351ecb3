"""What every part of the leaderboard is given, and what it gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from nam.evaluate.leaderboard.cases import Case
from nam.evaluate.leaderboard.table import Figure
from nam.evaluate.leaderboard.truth import Truth, Truths
from nam.evaluate.truth_cache import TruthCache

if TYPE_CHECKING:
    from nam.attribution import Attributor
    from nam.evaluate.judge import Judge
    from nam.mllm.base import MLLM

#: Called with a text when something begins, and with its size; gives what is called for each step of it.
Tell = Callable[[str, int], Callable[[int], object]]


def silent(what: str, size: int) -> Callable[[int], object]:
    """Tells nobody."""
    return lambda done: None


@dataclass(frozen=True, kw_only=True, eq=False)
class Bench:
    """Methods on prompts, with what is needed to judge them.

    Attributes:
        attributor: The model, the segmenter, the relevance and the methods, each with its region.
        cases: What was said and drawn at the prompts that are reported on, with every method's scores.
        truths: How the truth is found.
        cache: Where it is kept.
        judge: The classifier of the scenes; None to do without what it judges.
        regions: With which regions the methods were asked: see `Figure.region`.
        seed: Of everything that is drawn at random.
        tell: Gets the progress.
    """

    attributor: Attributor
    cases: Sequence[Case]
    truths: Truths
    cache: TruthCache
    judge: Judge | None = None
    regions: Sequence[str] = ("mask",)
    seed: int = 0
    tell: Tell = field(default=silent)

    @property
    def mllm(self) -> MLLM:
        """The model."""
        return self.attributor.mllm

    def truth(self, case: Case) -> Truth:
        """The truth at one prompt, which is looked up where it is known."""
        most = self.chosen(case.modality, self.truths.exhaustive)
        return self.truths.of(
            case, self.cache, judge=self.judge, seed=self.seed, whole=any(case is one for one in most)
        )

    def of(self, modality: str) -> list[Case]:
        """The cases of a modality."""
        return [case for case in self.cases if case.modality == modality]

    def chosen(self, modality: str, count: int | None) -> list[Case]:
        """At most `count` cases of a modality, by chance, each concept in turn; None for all."""
        found = self.of(modality)
        order = np.random.default_rng([self.seed, len(found)]).permutation(len(found))
        turns: dict[str, int] = {}
        ranked: list[tuple[int, int, Case]] = []
        for index in order.tolist():
            name = found[index].concept.name
            turns[name] = turns.get(name, 0) + 1
            ranked.append((turns[name], len(ranked), found[index]))
        picked = [case for _, _, case in sorted(ranked, key=lambda one: one[:2])[:count]]
        return [case for case in found if any(case is one for one in picked)]


@dataclass(frozen=True, kw_only=True)
class Part(ABC):
    """Some of the leaderboard's measures: a frozen dataclass of its options.

    Attributes:
        notes: What one has to know to read a measure, by its name before any bracket or "@".
    """

    notes: ClassVar[Mapping[str, str]] = {}

    def check(self, methods: Sequence[str]) -> None:  # noqa: B027
        """Refuse options that can be known to fail before anything is answered.

        Args:
            methods: Names of the run's own.

        Raises:
            ConfigError: an option names what there is not.
        """

    @abstractmethod
    def measure(self, bench: Bench) -> list[Figure]:
        """The figures of every method, at each prompt, concept or repetition."""
