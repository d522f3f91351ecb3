"""From what a few batches took to what a whole run will take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nam.store.shards import SPANS


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Bytes of the tables of a run folder, by what they hold."""

    samples: int
    neurons: int
    scores: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Tried:
    """What a few batches took; seconds are pairs: on the wall, and of processors.

    Attributes:
        sizes: Samples of each batch.
        start: Seconds up to the first batch, (2,).
        batches: Seconds of each batch, (B, 2); the first also reads what is read when it is first needed.
        merge, report: Seconds of joining the tables and of the report, (2,) each.
        memory: Peak in bytes, by place.
        shards, files: Bytes of the tables before and after they were joined.
        images: Bytes of the pictures.
        page: Bytes of the report.
    """

    sizes: tuple[int, ...]
    start: NDArray[np.float64]
    batches: NDArray[np.float64]
    merge: NDArray[np.float64]
    report: NDArray[np.float64]
    memory: Mapping[str, int]
    shards: Sizes
    files: Sizes
    images: int
    page: int


@dataclass(frozen=True, kw_only=True)
class Extent:
    """How much a run has to do.

    Attributes:
        samples: Of all processes.
        share: Samples of the busiest process.
        processes: Their number.
        flushes: Writes of the busiest process.
        pairs: Of concept and modality.
        shown: Samples in the report.
    """

    samples: int
    share: int
    processes: int
    flushes: int
    pairs: int
    shown: int


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run will take.

    Attributes:
        samples, processes: Of the run.
        measured: Samples that the estimate rests on.
        seconds: From the start of the command to the report.
        processor_seconds: The same of the processors, of all processes together.
        seconds_per_sample: Of one process.
        memory: The most bytes that each process holds, by place.
        disk: Bytes of the run folder.
        disk_peak: Bytes of the run folder just before the shards are removed.
    """

    samples: int
    processes: int
    measured: int
    seconds: float
    processor_seconds: float
    seconds_per_sample: float
    memory: dict[str, int]
    disk: int
    disk_peak: int


def forecast(tried: Tried, extent: Extent, *, tried_pairs: int, tried_shown: int) -> Estimate:
    """What a run of this extent will take, if its batches are like those that were tried.

    Args:
        tried: What they took.
        extent: Of the run.
        tried_pairs, tried_shown: As in `Extent`, of what was tried.
    """
    measured = sum(tried.sizes)
    timed = slice(1, None) if len(tried.sizes) > 1 else slice(None)
    rate = tried.batches[timed].sum(axis=0) / sum(tried.sizes[timed])
    warming = np.maximum(tried.batches[0] - rate * tried.sizes[0], 0.0)
    begin = tried.start + warming
    grown, paired = extent.samples / measured, extent.pairs / max(1, tried_pairs)
    paged = extent.shown / max(1, tried_shown)
    end = tried.merge * grown + tried.report * paged
    scores = tried.files.scores * paired
    tables = (tried.files.samples + tried.files.neurons) * grown + scores
    images, page = tried.images * grown, tried.page * paged
    shards = (tried.shards.samples + tried.shards.neurons) * grown
    shards += extent.processes * held(
        extent.flushes, one=tried.shards.scores / len(tried.sizes), most=max(1.0, scores)
    )
    return Estimate(
        samples=extent.samples,
        processes=extent.processes,
        measured=measured,
        seconds=float((begin + rate * extent.share + end)[0]),
        processor_seconds=float((begin * extent.processes + rate * extent.samples + end)[1]),
        seconds_per_sample=float(rate[0]),
        memory=dict(tried.memory),
        disk=round(images + tables + page),
        disk_peak=round(max(images + tables + shards, images + tables + page)),
    )


def held(flushes: int, *, one: float, most: float) -> float:
    """The most bytes that one process's shards of dense scores take at once.

    Shards are joined now and then (`nam.store.shards`), and a joined one is no larger than all its parts, nor
    than what all samples together have.

    Args:
        flushes: Writes of the process.
        one: Bytes of one write.
        most: Bytes of all samples' sums.

    >>> held(7, one=10.0, most=100.0), held(64, one=10.0, most=100.0)
    (70.0, 520.0)
    """
    total = 0.0
    for below, span in zip((1, *SPANS), (*SPANS, SPANS[-1] * 32), strict=True):
        waiting = min(flushes // below, span // below)
        total += waiting * min(most, below * one)
    return total
