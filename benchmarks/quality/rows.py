"""The rows of the quality table: what is wanted, what was measured, whether it is enough."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from benchmarks.quality.intervals import mean_interval, wilson

if TYPE_CHECKING:
    from benchmarks.quality.bench import Bench


@dataclass(frozen=True)
class Spec:
    """One row to measure. `at_least`: whether the target is a lower bound (else an upper one)."""

    key: str
    name: str
    target: float | None = None
    unit: str = "%"
    at_least: bool = True


@dataclass(frozen=True)
class Measure:
    """A value with its 95 % interval from n observations; `seeds`: the value of each seed.

    A measure of time is the median of n runs, and its interval is their range.
    """

    value: float
    low: float | None = None
    high: float | None = None
    n: int = 1
    seeds: tuple[float, ...] = ()
    note: str = ""

    @classmethod
    def share(cls, per_seed: Sequence[Sequence[bool]]) -> Self:
        """A proportion in percent, pooled over seeds, with Wilson's interval."""
        pooled = [bool(right) for seed in per_seed for right in seed]
        low, high = wilson(sum(pooled), len(pooled))
        seeds = tuple(round(100 * float(np.mean(seed)), 2) for seed in per_seed)
        return cls(100 * float(np.mean(pooled)), 100 * low, 100 * high, len(pooled), seeds)

    @classmethod
    def mean(cls, per_seed: Sequence[Sequence[float]], *, note: str = "") -> Self:
        """A mean, pooled over seeds."""
        pooled = [float(value) for seed in per_seed for value in seed]
        mean, low, high = mean_interval(pooled)
        seeds = tuple(round(float(np.mean(seed)), 4) for seed in per_seed)
        return cls(mean, low, high, len(pooled), seeds, note)

    @classmethod
    def median(cls, seconds: Sequence[float], *, note: str = "") -> Self:
        """The median of some runs and their range."""
        return cls(float(np.median(seconds)), min(seconds), max(seconds), len(seconds), note=note)


@dataclass(frozen=True)
class Section:
    """Rows that are measured together, and from the same parts of the model."""

    name: str
    title: str
    specs: tuple[Spec, ...]
    measure: Callable[[Bench], Mapping[str, Measure]]


@dataclass(frozen=True)
class Row:
    """A row of the table; `reason` says why there is no measure."""

    section: str
    spec: Spec
    measure: Measure | None
    reason: str = ""

    @property
    def verdict(self) -> str:
        """ "pass" or "miss" by the measured value; "" without a target; "not measured"."""
        if self.measure is None:
            return "not measured"
        if self.spec.target is None:
            return ""
        difference = self.measure.value - self.spec.target
        return "pass" if (difference >= 0 if self.spec.at_least else difference <= 0) else "miss"

    @property
    def value_text(self) -> str:
        """The value with its unit."""
        if self.measure is None:
            return ""
        return f"{_number(self.measure.value, self.spec.unit)} {self.spec.unit}".strip()

    @property
    def interval_text(self) -> str:
        """ "94.1 to 97.0"."""
        if self.measure is None or self.measure.low is None or self.measure.high is None:
            return ""
        return f"{_number(self.measure.low, self.spec.unit)} to {_number(self.measure.high, self.spec.unit)}"

    @property
    def target_text(self) -> str:
        """ ">= 95"."""
        if self.spec.target is None:
            return ""
        return f"{'>=' if self.spec.at_least else '<='} {self.spec.target:g}"


def rows_of(section: Section, measures: Mapping[str, Measure], *, reason: str = "") -> list[Row]:
    """Every row of a section; those without a measure carry the reason.

    Raises:
        KeyError: a measure has no row, so that a misspelt key is not lost.
    """
    unknown = measures.keys() - {spec.key for spec in section.specs}
    if unknown:
        raise KeyError(f"section {section.name} has no row {', '.join(sorted(unknown))}")
    return [
        Row(section.title, spec, measures.get(spec.key), "" if spec.key in measures else reason)
        for spec in section.specs
    ]


def _number(value: float, unit: str) -> str:
    return f"{value:.1f}" if unit in ("%", "points", "MB", "dB") else f"{value:.3f}"
