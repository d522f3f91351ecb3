"""The table of the leaderboard: a figure a prompt, a row a method and measure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from nam.errors import InputError
from nam.evaluate.agreement import Interval, bootstrap, paired_bootstrap

if TYPE_CHECKING:
    from pandas import DataFrame

#: Where there is no region to be with or without.
NO_REGION = "-"


@dataclass(frozen=True)
class Figure:
    """One figure of one method at one prompt (or of one concept, or of one repetition).

    Attributes:
        unit: What it was measured at; figures of different methods at one unit are pairs.
        group: What units are resampled with: the concept.
        method: Name of the method, or of what it is compared with.
        modality: text, image, or "-" for both together.
        region: Where a picture's relevance came from: "mask", "whole" (no segmenter), "ones" (no relevance at
            all, eq. 15), or "-".
        measure: What was measured, such as "spearman[logit]".
        value: The figure.
    """

    unit: str
    group: str
    method: str
    modality: str
    region: str
    measure: str
    value: float


@dataclass(frozen=True)
class Row:
    """A figure over all prompts.

    Attributes:
        method, modality, region, measure: As in `Figure`. A measure that begins with "lead " is the mean of
            the reference method's figure less this method's, at the same prompts.
        value: The mean.
        low, high: Of its 95 % bootstrap interval over groups; NaN where there is one group only.
        n: Figures it is the mean of.
        note: What one has to know to read it.
    """

    method: str
    modality: str
    region: str
    measure: str
    value: float
    low: float
    high: float
    n: int
    note: str = ""


#: Method, modality, region and measure.
Key = tuple[str, str, str, str]


def summarise(
    figures: Iterable[Figure],
    *,
    seed: int = 0,
    draws: int = 2000,
    notes: Mapping[str, str] | None = None,
) -> list[Row]:
    """A row for each method, modality, region and measure, in the order in which they first come.

    Args:
        figures: Of all prompts; those that are not finite are left out.
        seed: Of the resamples.
        draws: Resamples.
        notes: By the measure's name, or by that before its bracket or "@".
    """
    found = []
    for key, mine in _grouped(figures).items():
        interval = bootstrap(
            [one.value for one in mine],
            groups=[one.group for one in mine],
            rng=np.random.default_rng(seed),
            draws=draws,
        )
        found.append(_row(key, interval, len(mine), _note(key[3], notes or {})))
    return found


def leads(
    figures: Iterable[Figure],
    *,
    reference: str,
    measures: Sequence[str],
    seed: int = 0,
    draws: int = 2000,
) -> list[Row]:
    """How far a method leads every other one, prompt by prompt: rows with the measure "lead <measure>".

    The others are compared where the region is the reference's own, or where they have none.

    Args:
        figures: As in `summarise`.
        reference: The method that leads, or does not.
        measures: Which are compared.
        seed, draws: As in `summarise`.
    """
    groups = _grouped(one for one in figures if one.measure in measures)
    found = []
    for (method, modality, region, measure), mine in groups.items():
        if method == reference:
            continue
        at = region if region != NO_REGION else "mask" if modality == "image" else NO_REGION
        best = {one.unit: one for one in groups.get((reference, modality, at, measure), ())}
        pairs = [(best[one.unit], one) for one in mine if one.unit in best]
        if not pairs:
            continue
        interval = paired_bootstrap(
            [a.value for a, _ in pairs],
            [b.value for _, b in pairs],
            groups=[a.group for a, _ in pairs],
            rng=np.random.default_rng(seed),
            draws=draws,
        )
        note = f"{reference} less {method}, at the same prompts"
        found.append(_row((method, modality, region, f"lead {measure}"), interval, len(pairs), note))
    return found


def frame_of(rows: Sequence[Row] | Sequence[Figure]) -> DataFrame:
    """The rows as a table, a column a field."""
    import pandas as pd

    if not rows:
        raise InputError("the leaderboard has no rows: no prompt could be measured")
    return pd.DataFrame([asdict(row) for row in rows])


def pivot(rows: Sequence[Row], *, modality: str, measures: Sequence[str]) -> list[tuple[str, str, list[str]]]:
    """Method, region and a cell "value [low, high]" for each measure, the best of the first measure first."""
    mine = [row for row in rows if row.modality == modality]
    table: dict[tuple[str, str], dict[str, Row]] = {}
    for row in mine:
        if row.measure in measures:
            table.setdefault((row.method, row.region), {})[row.measure] = row
    ordered = sorted(table.items(), key=lambda item: -_lead(item[1], measures))
    return [
        (method, region, [cell(found.get(measure)) for measure in measures])
        for (method, region), found in ordered
    ]


def markdown(rows: Sequence[Row], *, modality: str, measures: Sequence[str]) -> str:
    """`pivot` as a table in Markdown; what is between | | is escaped."""
    head = ["method", "region", *measures]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for method, region, cells in pivot(rows, modality=modality, measures=measures):
        lines.append("| " + " | ".join(one.replace("|", "\\|") for one in (method, region, *cells)) + " |")
    return "\n".join(lines) + "\n"


def cell(row: Row | None) -> str:
    """A figure with its interval, as one reads it.

    >>> cell(Row("nam", "text", "-", "spearman[logit]", 0.5, 0.4, 0.6, 9)), cell(None)
    ('0.50 [0.40, 0.60]', '')
    >>> cell(Row("ce", "text", "-", "invariance@50", -1e-9, -0.3, 0.0, 9))
    '0.00 [-0.30, 0.00]'
    """
    if row is None:
        return ""
    digits = 2 if abs(row.value) < 100 else 0
    value, low, high = (f"{one:z.{digits}f}" for one in (row.value, row.low, row.high))
    return value if np.isnan(row.low) else f"{value} [{low}, {high}]"


def _grouped(figures: Iterable[Figure]) -> dict[Key, list[Figure]]:
    groups: dict[Key, list[Figure]] = {}
    for one in figures:
        if np.isfinite(one.value):
            groups.setdefault((one.method, one.modality, one.region, one.measure), []).append(one)
    return groups


def _row(key: Key, interval: Interval, n: int, note: str) -> Row:
    return Row(*key, interval.value, interval.low, interval.high, n, note)


def _note(measure: str, notes: Mapping[str, str]) -> str:
    return notes.get(measure) or notes.get(measure.partition("[")[0].partition("@")[0], "")


def _lead(found: Mapping[str, Row], measures: Sequence[str]) -> float:
    return next((found[name].value for name in measures if name in found), float("-inf"))
