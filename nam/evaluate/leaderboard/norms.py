"""The norm that an edit of a method's neurons needs for an equal change of the pictures (paper, table 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from nam.checks import whole
from nam.data.concepts import concept_of
from nam.data.words import WordPairs
from nam.editor.base import Goal, Problem
from nam.editor.cases import Pair, build_cases
from nam.editor.delta import EditError
from nam.errors import ConfigError, InputError
from nam.evaluate.clipscore import ClipScore, load_clipscore
from nam.evaluate.growth import BUDGETS, Growth, grow
from nam.evaluate.leaderboard.base import Bench, Part
from nam.evaluate.leaderboard.cases import best
from nam.evaluate.leaderboard.table import NO_REGION, Figure
from nam.types import NeuronSet, Sample
from nam.world.words import a


@dataclass(frozen=True, kw_only=True)
class EditNorms(Part):
    """Eq. 8 on the top I-neurons of each method, within a budget of norm that grows until CLIP finds the
    target in the pictures rather than the source: the same rule, prompts and noise for every method.

    Attributes:
        edits: Pairs of source and target; each source must be among the concepts that were drawn.
        k: Neurons that are changed: a concept's best by their mean score over its pictures.
        prompts: What the edits are made on, and judged by.
        requests: Held-out requests that an edit is judged by.
        seeds: Pictures of each.
        clip: Checkpoint that tells target from source; "tiny_gill" stands for what the package ships.
        least: The first budget of norm.
        steps: Budgets that are tried, each 2^(1/2) times the one before it.
        batch: Pictures drawn together.
    """

    notes: ClassVar = {
        "norm": "l2 norm of the change at which CLIP finds source and target equally likely, over seeds of "
        "noise that turned; norms of different models cannot be compared, their ratios can",
        "turned": "share of the seeds of noise whose pictures turned",
    }

    edits: Sequence[Sequence[str]]
    k: int = 32
    prompts: WordPairs = field(default_factory=WordPairs)
    requests: int = 1
    seeds: int = 3
    clip: str = "tiny_gill"
    least: float = BUDGETS[0]
    steps: int = len(BUDGETS)
    batch: int = 16

    def __post_init__(self) -> None:
        if not self.edits or any(len(pair) != 2 for pair in self.edits):
            raise ConfigError(f"evaluate.parts.norms.edits are pairs [source, target], got {self.edits}")
        for name in ("k", "requests", "seeds", "steps", "batch"):
            whole(f"evaluate.parts.norms.{name}", getattr(self, name), least=1, error=ConfigError)
        if not self.least > 0:
            raise ConfigError(f"evaluate.parts.norms.least must be above 0, got {self.least}")

    def measure(self, bench: Bench) -> list[Figure]:
        known = {case.concept.name for case in bench.of("image")}
        for source, _ in self.edits:
            if source not in known:
                raise InputError(
                    f"no picture of {source!r} could be attributed: its edit has no neurons "
                    f"(data.source.concepts; there are {', '.join(sorted(known)) or 'none'})"
                )
        clip = load_clipscore(self.clip)
        advance = bench.tell("norm of equal edits", len(self.edits) * len(bench.attributor.methods))
        found: list[Figure] = []
        for source, target in self.edits:
            problem = self.problem(bench, source, target)
            for method in bench.attributor.methods:
                neurons = self.neurons(bench, method, source)
                grown = grow(
                    problem,
                    neurons,
                    lambda: self.evidence(bench, clip, source, target),  # noqa: B023  (called at once)
                    budgets=[self.least * 2 ** (step / 2) for step in range(self.steps)],
                )
                found += self.figures(source, target, method, grown)
                advance(1)
        return found

    def problem(self, bench: Bench, source: str, target: str) -> Problem:
        """What an edit works on.

        Raises:
            EditError: the model does not draw source and target when asked to.
        """
        goal = Goal(concept_of(source), concept_of(target), "image")
        asked = zip(self.prompts.of(source), self.prompts.of(target, like=source), strict=True)
        pairs = [Pair(one.sample, other.sample) for one, other in asked]
        cases = build_cases(bench.mllm, goal, pairs, [], max_new_tokens=bench.attributor.max_new_tokens)
        return Problem(mllm=bench.mllm, goal=goal, cases=cases.cases)

    def neurons(self, bench: Bench, method: str, source: str) -> NeuronSet:
        """A method's neurons of what was drawn."""
        mine = [case.own(method) for case in bench.of("image") if case.concept.name == source]
        scores = np.stack([one for one in mine if one is not None]).mean(0)
        return NeuronSet.of(best(scores, self.k))

    def evidence(self, bench: Bench, clip: ClipScore, source: str, target: str) -> NDArray[np.float64]:
        """Of each seed: how much better the target's name fits the pictures than the source's, by CLIP; (S,).

        Raises:
            EditError: the model drew nothing.
        """
        asked = self.prompts.held_out(source, "draw", self.requests, seeds=self.seeds)
        samples: list[Sample] = [one.sample for one in asked]
        values = np.full(len(samples), np.nan)
        for start in range(0, len(samples), self.batch):
            drawn = bench.mllm.generate_batch(samples[start : start + self.batch], draw=True)
            for place, answer in enumerate(drawn):
                if answer.image is not None:
                    texts = [f"a picture of {a(word)}" for word in (target, source)]
                    fits = clip(texts, [answer.image]).double()
                    values[start + place] = float(fits[0] - fits[1])
        if not np.isfinite(values).any():
            raise EditError(f"nothing was drawn at the held-out requests for {source!r}")
        table: NDArray[np.float64] = np.nanmean(values.reshape(-1, self.seeds), axis=0)
        return table

    def figures(self, source: str, target: str, method: str, grown: Growth) -> list[Figure]:
        """Of one edit and method."""
        norms = [norm for norm in grown.norms if norm is not None]
        name = f"{source} to {target}"
        values = {"turned": len(norms) / self.seeds}
        if norms:
            values[f"norm[{name}]"] = float(np.mean(norms))
        return [
            Figure(name, source, method, "image", NO_REGION, measure, value)
            for measure, value in values.items()
        ]
