"""The results as a table on the screen, as JSON and as Markdown."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.quality.rows import Measure, Row
from nam.store.provenance import git_commit, machine

_LIBRARIES = ("torch", "transformers", "diffusers", "numpy", "opencv-python-headless")
_STYLES = {"pass": "green", "miss": "red", "not measured": "yellow"}

NOTES = """\
Unseen combinations are (noun, colour, place) of the test split, which no training ever shows; held-out
phrasings are wordings that no training produces. Pictures are marked by the judge, words by
`nam.world.language.parse`. "noun" is right when exactly the things asked for are there, "colour" when exactly
the colours asked for are there, "things and their colours" when each thing is in its own colour; an extra
thing counts as wrong. Shares are pooled over the seeds, with Wilson's 95 % interval; mean IoU has a bootstrap
interval over pictures. pass and miss go by the measured value.
"""


def circumstances(*, command: str, weights: Path, seeds: Sequence[int], seconds: float) -> dict[str, Any]:
    """Where, when and by what the rows were measured."""
    here = machine()
    return {
        "command": command,
        "weights": weights.name,
        "commit": commit(),
        "machine": f"{here['processor']}, {here['cores']} cores, {here['system']}",
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}},
        "seeds": list(seeds),
        "seconds": round(seconds),
    }


def print_table(rows: Sequence[Row], console: Console) -> None:
    """One line per row."""
    table = Table("measure", "value", "95 % interval", "n", "target", "")
    for title, group in groupby(rows, key=lambda row: row.section):
        table.add_section()
        table.add_row(f"[bold]{title}")
        for row in group:
            style = _STYLES.get(row.verdict, "")
            n = str(row.measure.n) if row.measure else ""
            shown = row.reason if row.measure is None else row.value_text
            cells = (f"  {row.spec.name}", shown, row.interval_text, n, row.target_text, row.verdict)
            table.add_row(*map(escape, cells), style=style)
    console.print(table)


def write_json(rows: Sequence[Row], about: Mapping[str, Any], path: Path) -> None:
    """Every row with its seeds' values."""
    found = [
        {
            "section": row.section,
            "name": row.spec.name,
            "unit": row.spec.unit,
            "value": None if row.measure is None else round(row.measure.value, 4),
            "low": None if row.measure is None or row.measure.low is None else round(row.measure.low, 4),
            "high": None if row.measure is None or row.measure.high is None else round(row.measure.high, 4),
            "n": 0 if row.measure is None else row.measure.n,
            "seeds": [] if row.measure is None else list(row.measure.seeds),
            "target": row.spec.target,
            "at_least": row.spec.at_least,
            "verdict": row.verdict,
            "note": row.reason if row.measure is None else row.measure.note,
        }
        for row in rows
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**about, "rows": found}, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` wrote: the circumstances, and under "rows" the rows."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def measure_of(row: Mapping[str, Any]) -> Measure | None:
    """The measure of a row of `read_json`, rounded as it was written; None where there was none."""
    if row["value"] is None:
        return None
    return Measure(row["value"], row["low"], row["high"], row["n"], tuple(row["seeds"]), row["note"])


def write_markdown(rows: Sequence[Row], about: Mapping[str, Any], path: Path) -> None:
    """The table with its circumstances."""
    lines = [
        "# The quality of the embedded model",
        "",
        f"Measured by {measured_by(about, _seeds(about))}.",
        "",
        *(
            f"After that, some of it again by {measured_by(again, _seeds(again))}.\n"
            for again in about.get("again", ())
        ),
        NOTES,
        summary(rows),
        "",
        *(
            f"* Missed: {row.section}, {row.spec.name}: {row.value_text}, wanted {row.target_text}"
            for row in rows
            if row.verdict == "miss"
        ),
        "",
    ]
    lines += section_tables(rows, interval="95 % interval")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines), encoding="utf-8")


def section_tables(rows: Sequence[Row], *, interval: str) -> list[str]:
    """Lines of Markdown: a table for each section; `interval`: the heading of that column."""
    lines = []
    for title, group in groupby(rows, key=lambda row: row.section):
        lines += [f"## {title}", "", f"| measure | value | {interval} | n | target | |", "| --- " * 6 + "|"]
        for row in group:
            n = str(row.measure.n) if row.measure else ""
            note = f" ({row.measure.note})" if row.measure and row.measure.note else ""
            verdict = f"not measured: {row.reason}" if row.measure is None else row.verdict
            cells = (row.spec.name + note, row.value_text, row.interval_text, n, row.target_text, verdict)
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return lines


def measured_by(about: Mapping[str, Any], *more: str) -> str:
    """By which command, at which commit, on what, and `more` that has to be said of it."""
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    where = f"`{about['command']}` at commit {about['commit']} on {about['machine']}; {versions}"
    return "; ".join([where, *more, f"{about['seconds']} s"])


def _seeds(about: Mapping[str, Any]) -> str:
    return f"seeds {', '.join(map(str, about['seeds']))}"


def summary(rows: Sequence[Row]) -> str:
    """How many targets are met."""
    wanted = [row for row in rows if row.spec.target is not None]
    met, missed, left = (sum(row.verdict == v for row in wanted) for v in ("pass", "miss", "not measured"))
    return f"{met} of {len(wanted)} targets met, {missed} missed, {left} not measured."


def commit() -> str:
    """The commit of the code that runs, shortened."""
    found = git_commit() or "unknown"
    return found[:7] + (" with changes" if found.endswith("+") else "")
