"""How well a relevance provider agrees with the full gradient and with the truth, and what it costs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import cast

import torch
from rich.progress import track
from torch import Tensor

from benchmarks.cost.pairs import Clock
from benchmarks.quality.rows import Measure, Spec
from benchmarks.regions import Effects, Region, ablated, draw_regions, predicted
from nam.errors import ModelError, NamError
from nam.evaluate.agreement import spearman
from nam.folders import configs_folder
from nam.mllm.gill import GILL
from nam.mllm.load import load
from nam.options import option
from nam.relevance.base import Relevance, RelevanceMap, counted_rows, relevance_of
from nam.segmenter.scenes import SceneSegmenter
from nam.types import DrawSettings

REFERENCE, FLOOR = "gradient", "floor"

#: Regions that are timed together.
_TOGETHER = 4

SPECS = (
    Spec("signed", "signed R like the full gradient's", 0.9, unit=""),
    Spec("unsigned", "unsigned R like the full gradient's", 0.9, unit=""),
    Spec("effect", "signed R and signed effect", unit=""),
    Spec("effect_unsigned", "unsigned R and absolute effect", unit=""),
    Spec("cost", "U-Net evaluations", 4, unit="", at_least=False),
    Spec("cost_double", "the same, a backward counting two", unit=""),
    Spec("seconds", "seconds a picture", unit="s"),
    Spec("share", "share of drawing it", 10, at_least=False),
)


@dataclass(frozen=True)
class Bench:
    """What is measured: so many pictures and ablations a picture, from a split of the scenes."""

    folder: Path
    count: int
    ablations: int
    split: str
    seed: int
    runs: int

    @cached_property
    def mllm(self) -> GILL:
        """The model."""
        model = load(self.folder)
        if not isinstance(model, GILL):
            raise ModelError(f"{self.folder}: expected a GILL, got {type(model).__name__}")
        return model

    @cached_property
    def regions(self) -> list[Region]:
        """What was drawn."""
        segmenter = SceneSegmenter(folder=str(self.folder))
        return draw_regions(self.mllm, segmenter, count=self.count, split=self.split, seed=self.seed)

    @cached_property
    def reference(self) -> list[Tensor]:
        """The full gradient of every region, (P, H)."""
        maps = gradients_of(option("relevance", REFERENCE), self.mllm, self.regions)
        return [one.values for one in maps]

    @cached_property
    def effects(self) -> list[Effects]:
        """What ablations do to every region."""
        numbered = list(enumerate(self.regions))
        return [
            ablated(self.mllm, region, count=self.ablations, seed=self.seed + index)
            for index, region in track(numbered, description="ablating", transient=True)
        ]


def gradients_of(provider: Relevance, mllm: GILL, regions: Sequence[Region]) -> list[RelevanceMap]:
    """The signed relevance of regions, some at once.

    Raises:
        RelevanceError: one of them has none.
    """
    provider, found = replace(provider, signed=True), []
    for start in range(0, len(regions), _TOGETHER):
        part = regions[start : start + _TOGETHER]
        maps = provider.batch(mllm, [one.generation for one in part], [one.mask for one in part])
        for one in maps:
            if isinstance(one, NamError):
                raise one
            found.append(one)
    return found


def measure(name: str, bench: Bench) -> dict[str, Measure]:
    """All figures of a provider; those of the floor that have a meaning."""
    if name == FLOOR:
        ones = [torch.ones_like(gradient) for gradient in bench.reference]
        found = agreement(ones, bench)
        return {key: value for key, value in found.items() if key.startswith(("unsigned", "effect_"))}
    provider: Relevance = option("relevance", name)
    unet = bench.mllm.diffusion.parts.get("unet", like=bench.mllm.unembedding)
    regions = bench.regions  # drawn before anything is counted
    with counted_rows(unet) as rows:
        maps = gradients_of(provider, bench.mllm, regions)
    forward = sum(rows) / len(maps)
    cost = statistics.fmean(one.cost for one in maps)
    return {
        **agreement([one.values for one in maps], bench),
        "cost": Measure(cost),
        "cost_double": Measure(forward + 2 * (cost - forward)),
        **timed(provider, bench),
    }


def agreement(gradients: Sequence[Tensor], bench: Bench) -> dict[str, Measure]:
    """Of gradients (P, H) of every region with the full gradient and with the truth."""
    found: dict[str, list[float]] = {key: [] for key in ("signed", "unsigned", "effect", "effect_unsigned")}
    for region, full, effects, gradient in zip(
        bench.regions, bench.reference, bench.effects, gradients, strict=True
    ):
        own, whole = (relevance_of(region.hidden, one) for one in (gradient, full))
        signed, unsigned = predicted(gradient, region.hidden, effects)
        found["signed"].append(spearman(gradient, full))
        found["unsigned"].append(spearman(own, whole))
        found["effect"].append(spearman(signed, effects.signed.cpu()))
        found["effect_unsigned"].append(spearman(unsigned, effects.unsigned.cpu()))
    return {
        key: Measure.mean([values], note=f"median {statistics.median(values):.3f}")
        for key, values in found.items()
    }


def timed(provider: Relevance, bench: Bench, *, clock: Clock = time.perf_counter) -> dict[str, Measure]:
    """Seconds a region, some at once, and the ratio to drawing the same pictures, in interleaved runs."""
    together = bench.regions[:_TOGETHER]
    seconds, shares = [], []
    for run in range(bench.runs + 1):
        began = clock()
        _draw(bench.mllm, together)
        drawn = clock()
        gradients_of(provider, bench.mllm, together)
        ended = clock()
        if run:  # the first warms up
            seconds.append((ended - drawn) / len(together))
            shares.append(100 * (ended - drawn) / (drawn - began))
    return {"seconds": Measure.median(seconds), "share": Measure.median(shares)}


def _draw(mllm: GILL, regions: Sequence[Region]) -> None:
    """From hidden states to pixels, conditioning and decoder included."""
    hidden = torch.stack([region.hidden for region in regions]).to(mllm.unembedding)
    noise = mllm.diffusion.noise([region.generation.seed for region in regions], like=hidden)
    with torch.inference_mode():
        mllm.drawers["image"].render(hidden, noise, cast(DrawSettings, regions[0].generation.drawn)).cpu()


def providers() -> list[str]:
    """Every provider by the name of its yaml, the reference first."""
    names = sorted(path.stem for path in (configs_folder() / "relevance").glob("*.yaml"))
    return [REFERENCE, *(name for name in names if name != REFERENCE), FLOOR]
