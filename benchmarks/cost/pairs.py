"""Timing in interleaved pairs, and the most memory that a job holds."""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.quality.rows import Measure

#: Seconds on some clock.
Clock = Callable[[], float]

Run = Callable[[], object]


@dataclass(frozen=True)
class Ratios:
    """A job's time over each of the forward passes that stood beside it: median and range."""

    forward: Measure
    same_logits: Measure


def wall() -> float:
    """The time, once the accelerator is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def measure(job: Run, *, forward: Run, same_logits: Run, pairs: int, clock: Clock = wall) -> Ratios:
    """Time a job beside two forward passes; see `paired`."""
    return Ratios(*paired(job, (forward, same_logits), pairs=pairs, clock=clock))


def paired(job: Run, beside: Sequence[Run], *, pairs: int, clock: Clock = wall) -> list[Measure]:
    """The ratio of a job's time to that of each run beside it.

    They run `pairs` times in turn, every other time the other way round: what slows the machine down for a
    while then slows all of them. Each is run once before.
    """
    runs = (*beside, job)
    for run in runs:
        run()
    ratios: list[list[float]] = [[] for _ in beside]
    for pair in range(pairs):
        spent = {}
        for run in runs if pair % 2 else runs[::-1]:
            began = clock()
            run()
            spent[run] = clock() - began
        for found, run in zip(ratios, beside, strict=True):
            found.append(spent[job] / spent[run])
    return [Measure.median(found) for found in ratios]


def peak_memory(run: Run) -> int | None:
    """Bytes that a run holds at most beyond what is held before it; None where the system cannot tell.

    On the CPU that is the resident set, whose peak Linux lets a process reset.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    try:
        ctypes.CDLL(None).malloc_trim(0)  # memory that the allocator keeps would hide what is asked for again
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
        run()
        return max(0, _status("VmHWM") - before)
    except (OSError, AttributeError, KeyError):
        return None


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    values = dict(line.split(":", 1) for line in lines)
    return 1024 * int(values[key].split()[0])
