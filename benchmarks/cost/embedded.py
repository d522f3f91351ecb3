"""What the embedded model's own jobs cost: exact ablation of all its neurons, and cheap relevance."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import cast

from benchmarks.cost.pairs import Clock
from benchmarks.providers import Bench, gradients_of, timed
from benchmarks.quality.rows import Measure, Row, Spec
from nam.errors import ModelError
from nam.mllm.base import MLLM
from nam.options import option
from nam.reduction.base import Method, contexts_of
from nam.relevance.base import Relevance
from nam.targets import token_targets
from nam.types import DrawSettings

SECTION = "The embedded model's own jobs"

ABLATION = Spec("ablation", "exact ablation of every neuron, for one word", 10.0, unit="s", at_least=False)
SHARE = Spec("share", "relevance=levels: time, over drawing the picture", 10.0, at_least=False)
EVALUATIONS = Spec(
    "evaluations", "relevance=levels: U-Net evaluations, over drawing the picture", 10.0, at_least=False
)


def measure_embedded(folder: Path, *, pairs: int, clock: Clock) -> list[Row]:
    """A row for each; the pictures are four at once."""
    bench = Bench(folder, count=4, ablations=1, split="test", seed=0, runs=pairs)
    provider: Relevance = option("relevance", "levels")
    return [
        Row(SECTION, ABLATION, ablation(bench.mllm, runs=min(pairs, 3), clock=clock)),
        Row(SECTION, SHARE, timed(provider, bench, clock=clock)["share"]),
        Row(SECTION, EVALUATIONS, Measure(evaluations(provider, bench))),
    ]


def ablation(mllm: MLLM, *, runs: int, clock: Clock) -> Measure:
    """Seconds for the first word of an answer.

    Raises:
        ModelError: the model says nothing.
    """
    generation = mllm.generate("draw a red horse on the grass", draw=False)
    targets = token_targets(mllm, generation)[:1]
    if not targets:
        raise ModelError(f"{mllm.name} answers with no word to attribute")
    method: Method = option("reduction", "ablation")
    seconds = []
    for _ in range(runs + 1):
        began = clock()
        method.score_batch(contexts_of(mllm, [generation], targets))
        seconds.append(clock() - began)
    neurons = len(mllm.ffn_sites) * mllm.ffn_sites[0].width
    return Measure.median(seconds[1:], note=f"{neurons} neurons")


def evaluations(provider: Relevance, bench: Bench) -> float:
    """U-Net evaluations of a provider, in percent of those that drew the picture."""
    drawn = cast(DrawSettings, bench.regions[0].generation.drawn)
    whole = drawn.steps * (1 if drawn.guidance == 1 else 2)
    return 100 * fmean(one.cost for one in gradients_of(provider, bench.mllm, bench.regions)) / whole
