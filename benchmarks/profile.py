"""Where the time goes, by PyTorch's profiler on one thread: python -m benchmarks.profile

The main loop on the embedded model (generate, replay, relevance, reduce), and direct and gradient methods on
a random model of OPT-125M's shape: the time of each stage, and the operations that take most of it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from benchmarks.arguments import positive
from benchmarks.cost.jobs import attribution
from benchmarks.cost.shape import Case, Shape
from benchmarks.providers import Bench, gradients_of
from nam.folders import weights_folder
from nam.hooks import Recorder
from nam.options import option
from nam.reduction.base import contexts_of
from nam.targets import image_target
from nam.types import Sample

#: Operations that a stage's row names.
NAMED = 4


@dataclass(frozen=True)
class Stage:
    """A stage's milliseconds, and its operations with their shares of them, the longest first."""

    name: str
    milliseconds: float
    operations: tuple[tuple[str, float], ...]

    @property
    def words(self) -> str:
        """ "addmm 52 %, mm 20 %"."""
        return ", ".join(f"{name} {100 * share:.0f} %" for name, share in self.operations)


def profiled(name: str, run: Callable[[], object]) -> Stage:
    """One run of a stage, after one that warms up."""
    run()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        run()
    events: list[Any] = [one for one in found.key_averages() if one.self_cpu_time_total > 0]
    whole = sum(one.self_cpu_time_total for one in events)
    events.sort(key=lambda one: -one.self_cpu_time_total)
    longest = [(one.key.removeprefix("aten::"), one.self_cpu_time_total / whole) for one in events[:NAMED]]
    return Stage(name, whole / 1e3, tuple(longest))


def main_loop(weights: str, *, count: int) -> Iterator[Stage]:
    """The stages of attributing pictures of the embedded model, `count` at once."""
    bench = Bench(weights_folder(weights), count=count, ablations=1, split="test", seed=0, runs=1)
    mllm, regions = bench.mllm, bench.regions
    generations = [region.generation for region in regions]
    asked = [Sample(id=str(row), prompt=one.prompt, seed=one.seed) for row, one in enumerate(generations)]
    yield profiled("generate", lambda: mllm.generate_batch(asked, draw=True))
    yield profiled("generate, recorded", lambda: mllm.generate_batch(asked, draw=True, record=Recorder(mllm)))
    with torch.no_grad():
        yield profiled("replay", lambda: mllm.replay(generations, record=Recorder(mllm)))
    for name in ("gradient", "levels"):
        provider = option("relevance", name)
        yield profiled(f"relevance={name}", partial(gradients_of, provider, mllm, regions))
    maps = gradients_of(option("relevance", "levels"), mllm, regions)
    targets = [image_target(one, found) for one, found in zip(generations, maps, strict=True)]
    contexts = contexts_of(mllm, generations, targets)
    for name in ("nam", "gradxact"):
        method = option("reduction", name)
        yield profiled(f"reduction={name}", partial(method.score_batch, contexts))


def methods(shape: Shape) -> Iterator[Stage]:
    """A bare forward pass, and methods from the prompt to scores, of a random model."""
    case = Case(shape)
    yield profiled("bare forward pass", case.forward)
    for name, count in (("acu", 1), ("acu", 64), ("gradxact", 1)):
        run = attribution(case, option("reduction", name), count)
        yield profiled(f"reduction={name}, {count} target{'s' if count > 1 else ''}", run)


def main(arguments: Sequence[str] | None = None, *, shape: Shape | None = None) -> list[Stage]:
    """Profile and print; returns the stages."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__)
    parser.add_argument("--weights", default="tiny_gill", help="the embedded model: a folder, or its name")
    parser.add_argument("--count", type=positive, default=4, help="pictures at once (4)")
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    options = parser.parse_args(arguments)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        parts = {
            f"embedded model, {options.count} pictures": list(
                main_loop(options.weights, count=options.count)
            ),
            "OPT-125M's shape, 32 tokens": list(methods(shape or Shape())),
        }
    finally:
        torch.set_num_threads(before)
    rows = [(part, one) for part, stages in parts.items() for one in stages]
    if options.markdown:
        print("| on | stage | ms | operations |\n| --- | --- | --- | --- |")
        for part, one in rows:
            print(f"| {part} | {one.name} | {one.milliseconds:.1f} | {one.words} |")
        return [one for _, one in rows]
    table = Table("on", "stage", "ms", "operations")
    for part, one in rows:
        table.add_row(part, one.name, f"{one.milliseconds:.1f}", one.words)
    Console().print(table)
    return [one for _, one in rows]


if __name__ == "__main__":
    main()
