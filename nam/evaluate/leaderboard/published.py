"""A paper's own figures, beside those of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from nam.errors import ConfigError
from nam.evaluate.leaderboard.cases import Split
from nam.evaluate.leaderboard.settings import Leaderboard
from nam.evaluate.leaderboard.table import NO_REGION, Row, cell
from nam.evaluate.leaderboard.truth import Truths

#: What stands where there is no figure.
NOTHING = "\u2013"


@dataclass(frozen=True, kw_only=True)
class PublishedTable:
    """Some of a paper's figures.

    Attributes:
        title: What they are.
        modality: Of our rows: text, image, or "-" for both together.
        columns: What the paper calls each figure -> our measure; its model-dependent part in brackets may be
            left out: "clipscore|in" is "clipscore[tiny_gill]|in". Null where we have no such measure.
        values: Method -> the paper's figures, in the order of the columns; null where it gives none.
        relative_to: A method, over whose figures all are divided, where only ratios can be compared.
        note: What one has to know to compare.
    """

    title: str
    modality: str
    columns: Mapping[str, str | None]
    values: Mapping[str, Sequence[float | None]]
    relative_to: str | None = None
    note: str = ""

    def __post_init__(self) -> None:
        for method, figures in self.values.items():
            if len(figures) != len(self.columns):
                raise ConfigError(
                    f"evaluate.published: {self.title!r} has {len(self.columns)} columns, and "
                    f"{len(figures)} figures of {method}"
                )
        if self.relative_to is not None and self.relative_to not in self.values:
            raise ConfigError(
                f"evaluate.published: {self.title!r} is relative to {self.relative_to}, which it has not"
            )


@dataclass(frozen=True, kw_only=True)
class PublishedLead:
    """By how much a paper's method leads the others on average.

    Attributes:
        title: What it leads in.
        method: That leads.
        over: The methods that it leads.
        modalities: Whose rows are averaged.
        measure: Ours, as in `PublishedTable.columns`.
        value: The paper's mean lead.
    """

    title: str
    method: str
    over: Sequence[str]
    modalities: Sequence[str]
    measure: str
    value: float


@dataclass(frozen=True, kw_only=True)
class PaperRun(Leaderboard):
    """A run of a paper's, again: parts of the leaderboard on the run's own data, with nothing held against
    exact ablation, and the paper's figures beside ours.

    Attributes:
        title: Of the report.
        about: What was done, and how it differs from the paper.
        tables: The paper's figures.
        leads: Its mean leads.
        findings: What it found in words, and our measure of it.
    """

    title: str
    about: str
    tables: Sequence[PublishedTable] = ()
    leads: Sequence[PublishedLead] = ()
    findings: Sequence[Mapping[str, str]] = ()
    truths: Truths = field(default_factory=Truths)
    split: Split = "all"
    tuning: float = 0.0
    regions: Sequence[str] = ("mask",)
    reference: str = "nam"
    judge: str | None = None


@dataclass(frozen=True)
class Beside:
    """A table of a report: the paper's figures and ours.

    Attributes:
        title, note: As in `PublishedTable`.
        head: Names of the columns.
        lines: A name and a cell for each column, a line each.
    """

    title: str
    note: str
    head: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]


def beside(run: PaperRun, rows: Sequence[Row]) -> list[Beside]:
    """The paper's tables with our rows beside them; of each figure, the paper's goes first."""
    found = [_table(table, rows) for table in run.tables]
    leads = [_lead(lead, rows) for lead in run.leads]
    if leads:
        found.append(Beside("Lead over the others, on average", "", ("paper", "ours"), tuple(leads)))
    said = tuple((one["paper"], _cells(one, rows)) for one in run.findings)
    if said:
        found.append(Beside("What the paper found", "", ("ours",), said))
    return found


def rows_of(rows: Sequence[Row], *, measure: str, modality: str, method: str | None = None) -> list[Row]:
    """The rows of a measure, whatever stands in its brackets, with the concept's region if there is one."""
    return [
        row
        for row in rows
        if row.modality == modality
        and (row.measure == measure or _plain(row.measure) == measure)
        and row.region in ("mask", NO_REGION)
        and (method is None or row.method == method)
    ]


def _table(table: PublishedTable, rows: Sequence[Row]) -> Beside:
    measures, base = list(table.columns.values()), table.relative_to
    methods = dict.fromkeys([*table.values, *(row.method for row in rows)])
    nothing: list[float | None] = [None] * len(measures)
    theirs = {method: list(table.values.get(method, nothing)) for method in methods}
    ours = {method: [_first(rows, one, table.modality, method) for one in measures] for method in methods}
    lines = []
    for method in methods:
        shown: list[str] = []
        for place, (said, row) in enumerate(zip(theirs[method], ours[method], strict=True)):
            shown.append(_said(said, theirs[base][place] if base else None))
            shown.append(_found(row, ours[base][place] if base else None))
        if any(one != NOTHING for one in shown):
            lines.append((method, *shown))
    head = tuple(word for name in table.columns for word in (f"{name}: paper", "ours"))
    return Beside(table.title, table.note, head, tuple(lines))


def _first(rows: Sequence[Row], measure: str | None, modality: str, method: str) -> Row | None:
    if not measure:
        return None
    return next(iter(rows_of(rows, measure=measure, modality=modality, method=method)), None)


def _said(value: float | None, base: float | None) -> str:
    if value is None:
        return NOTHING
    return f"{value:.3f} ({value / base:.2f} x)" if base else f"{value:.3f}"


def _found(row: Row | None, base: Row | None) -> str:
    if row is None:
        return NOTHING
    return f"{cell(row)} ({row.value / base.value:.2f} x)" if base and base.value else cell(row)


def _lead(lead: PublishedLead, rows: Sequence[Row]) -> tuple[str, ...]:
    gaps = []
    for modality in lead.modalities:
        mine = rows_of(rows, measure=lead.measure, modality=modality, method=lead.method)
        others = [
            row.value
            for method in lead.over
            for row in rows_of(rows, measure=lead.measure, modality=modality, method=method)
        ]
        if mine and others:
            gaps.append(mine[0].value - float(np.mean(others)))
    ours = f"{100 * float(np.mean(gaps)):+.2f} points" if gaps else NOTHING
    return lead.title, f"{100 * lead.value:+.2f} points", ours


def _cells(finding: Mapping[str, str], rows: Sequence[Row]) -> str:
    found = rows_of(rows, measure=finding["measure"], modality=finding["modality"])
    shown = "; ".join(f"{row.method} {cell(row)}" for row in found)
    return f"{finding['measure']} ({finding['modality']}): {shown or NOTHING}"


def _plain(measure: str) -> str:
    """Without what stands in brackets."""
    head, _, rest = measure.partition("[")
    return head + rest.rpartition("]")[2] if rest else head
