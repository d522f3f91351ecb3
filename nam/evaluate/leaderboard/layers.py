"""In which layers the neurons of what was said and drawn are (paper, figure of the layer distribution)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from nam.data.asking import KINDS
from nam.errors import ConfigError
from nam.evaluate.distribution import layer_distribution
from nam.evaluate.leaderboard.base import Bench, Part
from nam.evaluate.leaderboard.cases import Case
from nam.evaluate.leaderboard.table import NO_REGION, Figure

#: T-neurons, I-neurons, neurons that are both, and that are either, as `LayerCounts` calls them.
SETS = ("text", "image", "both", "either")


@dataclass(frozen=True, kw_only=True)
class Layers(Part):
    """For each answer that says and draws its concept, how many of the top neurons each layer has; where a
    picture is described in one answer and drawn in another, for the two together.

    Attributes:
        ks: Sizes of the tops.
    """

    notes: ClassVar = {
        "layer": "neurons in this layer, of the top k of an answer: T-neurons (text), I-neurons (image), "
        "those that are both, those that are either",
        "upper": "share of the top k in the upper two thirds of the layers; two thirds by chance",
        "shared": "share of the top k that is both a T- and an I-neuron",
    }

    ks: Sequence[int] = (100, 300, 600)

    def __post_init__(self) -> None:
        if not self.ks or any(k < 1 for k in self.ks):
            raise ConfigError(f"evaluate.parts.layers.ks must be at least 1 each, got {list(self.ks)}")

    def measure(self, bench: Bench) -> list[Figure]:
        pairs = list(_pairs(bench))
        methods = list(bench.attributor.methods)
        advance = bench.tell("layers", len(pairs))
        found: list[Figure] = []
        for said, drawn in pairs:
            for method in methods:
                if said.own(method) is not None and drawn.own(method) is not None:
                    found += self.figures(said, drawn, method, layers=len(bench.mllm.ffn_sites))
            advance(1)
        return found

    def figures(self, said: Case, drawn: Case, method: str, *, layers: int) -> list[Figure]:
        """Of one answer and method."""
        text, image = (case.ranking(method, max(self.ks)) for case in (said, drawn))
        values: dict[tuple[str, str], float] = {}
        for k in self.ks:
            counts = layer_distribution(text, image, k=k, layers=layers)
            upper = np.arange(layers) >= layers / 3
            for name in SETS:
                mine = getattr(counts, name)
                values |= {(name, f"layer@{k}[{layer}]"): float(n) for layer, n in enumerate(mine)}
                if name in ("text", "image"):
                    values[name, f"upper@{k}"] = float(mine[upper].sum()) / k
            values[NO_REGION, f"shared@{k}"] = float(counts.both.sum()) / k
        return [
            Figure(said.id, said.concept.name, method, which, NO_REGION, measure, value)
            for (which, measure), value in values.items()
        ]


def _pairs(bench: Bench) -> Iterator[tuple[Case, Case]]:
    """What is said and what is drawn in one answer, or in two about one captioned picture."""
    drawn = {case.id: case for case in bench.of("image")}
    about = {_picture(case): case for case in drawn.values()}
    for case in bench.of("text"):
        other = drawn.get(case.id) or about.get(_picture(case))
        if other is not None:
            yield case, other


def _picture(case: Case) -> str:
    """The id without the kind of prompt, of items that `nam.data.asking` makes."""
    name, _, kind = case.id.rpartition("-")
    return name if kind in KINDS else case.id
