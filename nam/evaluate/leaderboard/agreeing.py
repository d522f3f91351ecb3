"""Agreement of every method's scores with the true effects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from nam.errors import ConfigError
from nam.evaluate.faithfulness import agreement
from nam.evaluate.leaderboard.base import Bench, Part
from nam.evaluate.leaderboard.cases import Case
from nam.evaluate.leaderboard.table import NO_REGION, Figure
from nam.evaluate.leaderboard.truth import Truth

#: The proxy of the truth, as if it were a method: how well it knows the whole sampler.
PROXY = "proxy"


@dataclass(frozen=True, kw_only=True)
class Agreement(Part):
    """`pearson`, `spearman` and `recall@k` with exact single-neuron ablation, by what is measured of it.

    Attributes:
        ks: Of recall.
        prompts: Most prompts of each modality; None for all.
    """

    notes: ClassVar = {
        "pearson": "correlation with exact single-neuron ablation",
        "spearman": "rank correlation with exact single-neuron ablation",
        "recall": "share of the true top k in the method's top k",
    }

    ks: tuple[int, ...] = (10, 50, 100)
    prompts: int | None = None

    def __post_init__(self) -> None:
        if any(k < 1 for k in self.ks):
            raise ConfigError(f"evaluate.parts.agreement.ks must be at least 1 each, got {list(self.ks)}")

    def measure(self, bench: Bench) -> list[Figure]:
        found = []
        for modality in ("text", "image"):
            cases = bench.chosen(modality, self.prompts)
            advance = bench.tell(f"truth: {modality}", len(cases))
            for case in cases:
                found += self.figures(case, bench.truth(case))
                advance(1)
        return found

    def figures(self, case: Case, truth: Truth) -> list[Figure]:
        """Of one case: every method with every region, and the proxy."""
        scores = {key: np.asarray(values) for key, values in case.scores.items()}
        found = []
        for name, effects in truth.effects.items():
            compared = dict(scores)
            if f"proxy_{name}" in truth.effects:
                compared[PROXY, NO_REGION] = truth.effects[f"proxy_{name}"]
            for (method, region), values in compared.items():
                measured = agreement(
                    values, effects, name=name, ks=tuple(self.ks), weights=truth.weights.get(name)
                )
                found += [
                    Figure(case.id, case.concept.name, method, case.modality, region, measure, value)
                    for measure, value in measured.items()
                ]
        return found
