"""Rows of absolute times, of what a device can move, and of what failed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import torch

from benchmarks.cost.pairs import Run, peak_memory, wall
from benchmarks.quality.rows import Measure, Row, Spec
from nam.errors import first_line

#: Bytes of each of the two blocks between which a device copies; a large one holds what caches would hide.
BLOCK = {"cuda": 2**30, "cpu": 2**24}

DEVICE = "The device"


@dataclass(frozen=True, eq=False)
class Timed:
    """What a run took: seconds of each of some runs, and the bytes it held at most beyond what was held."""

    seconds: Sequence[float]
    held: int | None

    def measure(self, *, per: int = 1, note: str = "") -> Measure:
        """Milliseconds for each of `per` things, with the memory for all of them."""
        parts = [note, "" if self.held is None else f"{self.held / 1e9:.2f} GB more at the peak"]
        return Measure.median([1e3 * one / per for one in self.seconds], note="; ".join(filter(None, parts)))


def timed(run: Run, *, runs: int) -> Timed:
    """Time a run so many times, after one that warms up and whose memory is measured."""
    held = peak_memory(run)
    seconds = []
    for _ in range(runs):
        began = wall()
        run()
        seconds.append(wall() - began)
    return Timed(seconds, held)


class Table:
    """Rows of a section, in order; a job that fails is a row with the reason, and the others go on.

    Args:
        title: Of the section.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.rows: list[Row] = []

    def add(self, name: str, value: Measure, *, unit: str = "ms", target: float | None = None) -> None:
        """A row."""
        self.rows.append(Row(self.title, Spec(name, name, target, unit=unit, at_least=False), value))

    @contextmanager
    def attempt(self, name: str, *, unit: str = "ms") -> Iterator[None]:
        """Where a job may fail, such as by running out of memory or in a compiler."""
        try:
            yield
        except Exception as error:  # compilers and drivers fail by many types
            reason = f"{type(error).__name__}: {first_line(error)}"[:200]
            self.rows.append(Row(self.title, Spec(name, name, unit=unit), None, reason))
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def copied_per_second(device: torch.device, *, runs: int = 20) -> float:
    """Bytes that the device's memory moves in a second while it copies, reading and writing counted."""
    size = BLOCK.get(device.type, BLOCK["cpu"])
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)

    return 2 * size / median(timed(copy, runs=runs).seconds)


def measure_device(device: torch.device, *, weights: int) -> tuple[list[Row], float]:
    """What the device is, and its `copied_per_second`.

    Args:
        device: Where the model is.
        weights: Bytes of the language model.
    """
    table = Table(DEVICE)
    bandwidth = copied_per_second(device)
    table.add("memory moved by a copy, read and written", Measure(bandwidth / 1e9), unit="GB/s")
    table.add("weights of the language model", Measure(weights / 1e9), unit="GB")
    table.add("the time a copy needs for as many bytes", Measure(1e3 * weights / bandwidth), unit="ms")
    return table.rows, bandwidth
