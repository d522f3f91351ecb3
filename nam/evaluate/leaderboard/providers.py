"""Relevance providers next to one another: what they cost, and what their relevance is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from nam.errors import ConfigError
from nam.evaluate.agreement import spearman
from nam.evaluate.faithfulness import agreement
from nam.evaluate.leaderboard.base import Bench, Part
from nam.evaluate.leaderboard.cases import Case, by_sign
from nam.evaluate.leaderboard.cost import seconds
from nam.evaluate.leaderboard.table import Figure
from nam.evaluate.leaderboard.truth import Truth
from nam.options import option
from nam.relevance.base import Relevance, RelevanceMap

#: The provider that the others are held against: the paper's.
FULL = "gradient"


@dataclass(frozen=True, kw_only=True)
class Providers(Part):
    """One method with the relevance of every provider, signed, in the segmenter's mask.

    Attributes:
        names: Providers, by their files under `configs/relevance`; "gradient" is the full one.
        method: Whose scores are held against the truth; one of the run's own.
        prompts: With a picture; None for all.
    """

    notes: ClassVar = {
        "provider_unet": "U-Net evaluations; a backward counts as one, a guided step twice",
        "provider_time/generation": "time over answering the prompt, picture included",
        "provider_rank": "rank correlation of the relevance with the full gradient's",
        "provider_spearman": "rank correlation of the scores with exact ablation",
        "provider_pearson": "correlation of the scores with exact ablation",
    }

    names: Sequence[str] = (FULL, "levels", "attention", "last")
    method: str = "nam_total"
    prompts: int | None = 8

    def __post_init__(self) -> None:
        if FULL not in self.names:
            raise ConfigError(f"evaluate.parts.providers.names must hold {FULL!r}, got {list(self.names)}")
        for name in self.names:
            option("relevance", name)

    def check(self, methods: Sequence[str]) -> None:
        if self.method not in methods:
            raise ConfigError(
                f"evaluate.parts.providers.method={self.method} is not among reduction={list(methods)}"
            )

    def measure(self, bench: Bench) -> list[Figure]:
        self.check(list(bench.attributor.methods))
        cases = bench.chosen("image", self.prompts)
        found, advance = [], bench.tell("providers", len(cases))
        for case in cases:
            found += self._case(bench, case, bench.truth(case))
            advance(1)
        return found

    def _case(self, bench: Bench, case: Case, truth: Truth) -> list[Figure]:
        device, region = bench.mllm.device, torch.from_numpy(case.region)
        sample, answer = case.work.item.sample, case.work.answer
        generating = seconds(lambda: bench.mllm.generate_batch([sample], draw=bench.attributor.draw), device)
        full: Tensor | None = None
        found = []
        for name in sorted(self.names, key=lambda one: one != FULL):
            provider: Relevance = replace(option("relevance", name), signed=True, aggregate="none")
            maps: list[RelevanceMap] = []
            spent = seconds(lambda p=provider, m=maps: m.append(p(bench.mllm, answer, region)), device)  # type: ignore[misc]
            (relevance,) = maps
            full = relevance.values if full is None else full
            context = by_sign(bench.attributor, case.work, relevance.values)[True]
            scores = bench.attributor.methods[self.method].score(context).cpu().numpy()
            figures = {
                "provider_unet": relevance.cost,
                "provider_time/generation": spent / generating,
                "provider_rank": spearman(relevance.values, full),
            }
            for effect in ("pixels", "proxy_pixels"):
                if effect in truth.effects:
                    weights = truth.weights.get(effect)
                    measured = agreement(scores, truth.effects[effect], name=effect, ks=(), weights=weights)
                    figures |= {f"provider_{measure}": value for measure, value in measured.items()}
            found += [
                Figure(case.id, case.concept.name, f"relevance={name}", "image", "mask", measure, value)
                for measure, value in figures.items()
            ]
        return found
