"""Planted neurons: whether methods find what was built into a copy of the model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from nam.checks import whole
from nam.errors import ConfigError, InputError, ModelError
from nam.evaluate.leaderboard.base import Bench, Part
from nam.evaluate.leaderboard.cases import Case, best, target_of
from nam.evaluate.leaderboard.table import NO_REGION, Figure
from nam.evaluate.planted import Planted, plant, recovery
from nam.reduction.base import Method, contexts_of
from nam.types import Modality

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PlantedNeurons(Part):
    """Recall and precision of planted neurons in the top k, a copy of the model for each concept.

    Attributes:
        concepts: How many; None for all.
        answers: With the concept, of each modality.
        others: Answers without it.
        k: Size of the top: a multiple of the neurons that were planted to be found.
    """

    notes: ClassVar = {
        "planted_recall": "share of the planted writers, indirect writers and relays in the top k",
        "planted_precision": "share of those among all planted neurons in the top k",
        "planted_found": "share of the planted neurons of this role in the top k; silent ones and decoys "
        "should not be there",
    }

    concepts: int | None = 4
    answers: int = 3
    others: int = 8
    k: int = 4

    def __post_init__(self) -> None:
        for name in ("answers", "others", "k"):
            whole(f"evaluate.parts.planted.{name}", getattr(self, name), least=1, error=ConfigError)

    def measure(self, bench: Bench) -> list[Figure]:
        names = sorted({case.concept.name for case in bench.cases})
        order = np.random.default_rng([bench.seed, len(names)]).permutation(len(names)).tolist()
        chosen = [names[index] for index in order[: self.concepts]]
        found, advance = [], bench.tell("planted neurons", len(chosen))
        for name in chosen:
            found += self._concept(bench, name)
            advance(1)
        return found

    def _concept(self, bench: Bench, name: str) -> list[Figure]:
        mine: list[Case] = []
        for modality in ("text", "image"):
            mine += [case for case in bench.of(modality) if case.concept.name == name][: self.answers]
        # An answer counts once, also where it is both a case of words and of a picture.
        others = {id(case.work): case.work.answer for case in bench.cases if not _mentions(case, name)}
        try:
            planted = plant(
                [case.context for case in mine], list(others.values())[: self.others], seed=bench.seed
            )
        except (InputError, ModelError) as error:
            log.warning("no neurons planted for %r: %s", name, error)
            return []
        found = []
        for modality in dict.fromkeys(case.modality for case in mine):
            cases = [case for case in mine if case.modality == modality]
            for method_name, method in bench.attributor.methods.items():
                found += self._figures(planted, cases, method_name, method, modality)
        return found

    def _figures(
        self, planted: Planted, cases: Sequence[Case], name: str, method: Method, modality: Modality
    ) -> list[Figure]:
        targets = [target_of(case.work, modality, signed=method.needs.signed) for case in cases]
        contexts = contexts_of(planted.mllm, [case.work.answer for case in cases], targets)
        mean = np.mean([found.cpu().numpy() for found in method.score_batch(contexts)], axis=0)
        neurons = planted.of(modality)
        k = self.k * sum(one.is_cause for one in neurons)
        measured = recovery(best(mean.astype(np.float32), k), neurons, k=k)
        concept = cases[0].concept.name
        region = "mask" if (name, "mask") in cases[0].scores else NO_REGION
        figures = {
            f"planted_recall@{k}": measured.recall,
            f"planted_precision@{k}": measured.precision,
            **{f"planted_found@{k}[{role}]": share for role, share in measured.found.items()},
        }
        return [
            Figure(concept, concept, name, modality, region, measure, value)
            for measure, value in figures.items()
        ]


def _mentions(case: Case, name: str) -> bool:
    """Whether an answer, or what it was asked, is about a concept."""
    words = f"{case.work.item.sample.prompt} {case.work.answer.text}".lower().split()
    return case.concept.name == name or name in words
