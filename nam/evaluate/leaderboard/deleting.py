"""Deletion: what is left of the concept, and of others, when a method's top neurons are ablated together."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from nam.checks import whole
from nam.errors import ConfigError
from nam.evaluate.deletion import Read, deletion_curves, log_spaced
from nam.evaluate.joint import noun_evidence, picture_evidence, text_probability
from nam.evaluate.leaderboard.base import Bench, Part
from nam.evaluate.leaderboard.cases import Case, best
from nam.evaluate.leaderboard.table import NO_REGION, Figure
from nam.evaluate.rankings import Ranking
from nam.world.scene import NOUNS

if TYPE_CHECKING:
    from nam.evaluate.judge import Judge

#: What the curves read, by modality.
_READ = {"text": "probability", "image": "evidence"}


@dataclass(frozen=True, kw_only=True)
class DeletionCurves(Part):
    """Areas of the curves over log k, against as many random neurons of the same layers.

    Attributes:
        prompts: Of each modality; None for all.
        k_max: Most neurons that are ablated together.
        steps: Numbers of neurons between 1 and that.
        draws: Random rankings for each method.
        batch: Sets of neurons that are read at once.
    """

    notes: ClassVar = {
        "deletion": "how far the concept falls below what random neurons of the same layers leave of it",
        "deletion_share": "the same as a share of what the order by exact ablation takes away",
        "deletion_side": "how far another concept falls: the side effect, best near 0",
    }

    prompts: int | None = 6
    k_max: int = 100
    steps: int = 6
    draws: int = 2
    batch: int = 32

    def __post_init__(self) -> None:
        for name in ("k_max", "steps", "draws", "batch"):
            whole(f"evaluate.parts.deletion.{name}", getattr(self, name), least=1, error=ConfigError)

    def measure(self, bench: Bench) -> list[Figure]:
        found = []
        for modality in ("text", "image"):
            cases = [case for case in bench.chosen(modality, self.prompts) if self._read(case, bench.judge)]
            advance = bench.tell(f"deletion: {modality}", len(cases))
            for case in cases:
                found += self._case(bench, case, cases)
                advance(1)
        return found

    def _case(self, bench: Bench, case: Case, cases: Sequence[Case]) -> list[Figure]:
        seeds = [bench.seed, zlib.crc32(case.id.encode())]
        others = [one for one in cases if one.concept.name != case.concept.name]
        rankings = {
            name: case.ranking(name, self.k_max)
            for name in bench.attributor.methods
            if case.own(name) is not None
        }
        exact = self._exact(bench, case)
        width = case.context.activations.shape[-1]
        ks = log_spaced(min(self.k_max, len(exact), width), self.steps)
        what, found = _READ[case.modality], []
        read = self._read(case, bench.judge)
        aside = None
        if others:
            other = others[int(np.random.default_rng(seeds).integers(len(others)))]
            aside = self._read(other, bench.judge)
        for prefix, reader in (("", read), ("_side", aside)):
            if reader is None:
                continue
            curves = deletion_curves(
                reader,
                rankings,
                exact=exact,
                ks=ks,
                width=width,
                rng=np.random.default_rng(seeds),
                draws=self.draws,
            )
            for name, curve in curves.items():
                region = "mask" if (name, "mask") in case.scores else NO_REGION
                figures = {f"deletion{prefix}[{what}]": curve.area}
                if not prefix:
                    figures[f"deletion_share[{what}]"] = curve.relative
                found += [
                    Figure(case.id, case.concept.name, name, case.modality, region, measure, value)
                    for measure, value in figures.items()
                ]
        return found

    def _exact(self, bench: Bench, case: Case) -> Ranking:
        """By the effect that the curve reads, of all neurons, or of those that are known."""
        effects = bench.truth(case).effects
        names = ("logprob", "proxy_evidence", "evidence")
        known = next(effects[name] for name in names if name in effects)
        return best(np.where(np.isnan(known), -np.inf, known).astype(np.float32), self.k_max)

    def _read(self, case: Case, judge: Judge | None) -> Read | None:
        """What reads a concept; None where there is nothing to read it by."""
        if case.modality == "text":
            return partial(text_probability, case.context, batch=self.batch)
        if judge is None or case.concept.name not in NOUNS:
            return None
        evidence = noun_evidence(judge, case.concept.name)
        return partial(
            picture_evidence, case.context, region=case.region, evidence=evidence, batch=self.batch
        )
