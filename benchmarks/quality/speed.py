"""Load time, drawing time, size of the weights."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from benchmarks.quality.bench import Bench
from benchmarks.quality.rows import Measure, Section, Spec
from nam.errors import ModelError

CORES = 2
PROMPT = "draw a red horse on the grass"

# What loading itself imports (the model's own classes) counts as loading.
_LOAD = """
import sys, time
began = time.perf_counter()
import torch, transformers, nam
imported = time.perf_counter()
nam.load(sys.argv[1])
loaded = time.perf_counter()
nam.load(sys.argv[1])
print(imported - began, loaded - imported, time.perf_counter() - loaded)
"""


def time_load(bench: Bench) -> dict[str, Measure]:
    """`nam.load` in fresh processes."""
    imports: list[float] = []
    loads: list[float] = []
    again: list[float] = []
    for _ in range(bench.runs):
        done = subprocess.run(
            [sys.executable, "-c", _LOAD, str(bench.folder)],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(CORES)},
        )
        if done.returncode:
            raise ModelError((done.stderr.strip().splitlines() or ["loading failed"])[-1])
        seconds = map(float, done.stdout.split()[-3:])
        for times, value in zip((imports, loads, again), seconds, strict=True):
            times.append(value)
    return {
        "load": Measure.median(loads),
        "again": Measure.median(again),
        "imports": Measure.median(imports),
    }


def time_drawing(bench: Bench) -> dict[str, Measure]:
    """Prompt to picture, one alone and eight at once."""
    with threads(CORES):
        one = _seconds(lambda: bench.mllm.generate(prompt=PROMPT, draw=True), bench.runs)
        prompts, seeds = [PROMPT] * 8, list(range(8))
        eight = _seconds(lambda: bench.mllm.generate(prompt=prompts, seed=seeds, draw=True), bench.runs)
    note = f"{bench.mllm.config.steps} steps"
    return {"one": Measure.median(one, note=note), "eight": Measure.median(eight, note=note)}


def weigh(bench: Bench) -> dict[str, Measure]:
    """Bytes of all files of the weights folder."""
    total = sum(path.stat().st_size for path in bench.folder.rglob("*") if path.is_file())
    return {"size": Measure(total / 1e6)}


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use that many threads until the block ends."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _seconds(run: Callable[[], object], runs: int) -> list[float]:
    run()  # reads the parts and fills the caches
    found = []
    for _ in range(runs):
        began = time.perf_counter()
        run()
        found.append(time.perf_counter() - began)
    return found


SECTIONS = (
    Section(
        "load",
        "Loading (median and range)",
        (
            Spec("load", "nam.load after `import torch, transformers, nam`", 2.0, unit="s", at_least=False),
            Spec("again", "a second nam.load in that process", unit="s"),
            Spec("imports", "those imports", unit="s"),
        ),
        time_load,
    ),
    Section(
        "speed",
        f"Drawing on {CORES} threads (median and range)",
        (
            Spec("one", "one picture", 0.5, unit="s", at_least=False),
            Spec("eight", "a batch of 8", 2.0, unit="s", at_least=False),
        ),
        time_drawing,
    ),
    Section(
        "size",
        "Weights",
        (Spec("size", "the whole weights folder", 60, unit="MB", at_least=False),),
        weigh,
    ),
)
