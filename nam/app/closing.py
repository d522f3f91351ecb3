"""What a run prints when it is done."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nam.report.html import error_views
from nam.report.media import OTHERS
from nam.report.pages import REPORT_FILE
from nam.report.tops import methods_of
from nam.store import Run

if TYPE_CHECKING:
    from pandas import DataFrame

#: Most reasons of errors that are printed.
_REASONS = 8

_TITLES = {"text": "T-neurons: they say it", "image": "I-neurons: they draw it"}


def print_closing(
    folder: str | Path, tops: DataFrame, *, top: int = 3, console: Console | None = None
) -> None:
    """Print each concept's top neurons with their words, the errors, what it cost, and where the report is.

    Args:
        folder: A finished run.
        tops: As `nam.report.tops.top_neurons` gives them.
        top: Neurons of each concept and modality, or fewer where `tops` has fewer.
        console: Where to; the terminal by default.
    """
    console = console or Console()
    run = Run(folder)
    tops = tops[tops["rank"] <= top]
    titles = _TITLES | {
        name: title for name, (_, title) in OTHERS.items() if (tops["modality"] == name).any()
    }
    for method in methods_of(run):
        mine = tops[tops["method"] == method]
        table = Table("concept", *titles.values(), title=f"top neurons by {method}", show_lines=True)
        for concept in filter(None, dict.fromkeys(run.samples["concept"])):
            cells = []
            for modality in titles:
                rows = mine[(mine["concept"] == concept) & (mine["modality"] == modality)]
                cells.append(
                    "\n".join(
                        f"[bold]L{row['layer']}.U{row['unit']}[/bold] {escape(row['words'])}"
                        for row in rows.to_dict("records")
                    )
                    or "-"
                )
            table.add_row(escape(concept), *cells)
        console.print(table)
    failed = int((run.samples["status"] == "error").sum())
    console.print(f"{len(run.samples)} samples, {failed} of them with an error", highlight=False)
    reasons = error_views(run)
    for view in reasons[:_REASONS]:
        console.print(f"  {view.count} x {escape(view.reason)}", highlight=False)
    if len(reasons) > _REASONS:
        console.print(f"  and {len(reasons) - _REASONS} more reasons, all in the report", highlight=False)
    for line in _costs(run.metrics):
        console.print(line, highlight=False)
    console.print(f"report: {run.folder / REPORT_FILE}", markup=False, highlight=False, soft_wrap=True)


def _costs(metrics: Mapping[str, Any]) -> list[str]:
    """What the run cost, in lines; a run that was resumed knows its last part only."""
    stages = [f"{stage} {_seconds(spent)}" for stage, spent in metrics.get("seconds_per_sample", {}).items()]
    memory = [f"{size / 2**20:,.0f} MiB ({place})" for place, size in metrics.get("peak_memory", {}).items()]
    lines = [f"time: {_seconds(metrics.get('seconds', {}).get('run', 0.0))} in all"]
    if stages:
        lines[0] += f"; per sample {', '.join(stages)}"
    if "time_over_generation" in metrics:
        ratio = metrics["time_over_generation"]
        lines.append(f"all stages took {ratio:.2f} x the time of generating, recording included")
    if memory:
        lines.append(f"peak memory: {', '.join(memory)}")
    return lines


def _seconds(spent: float) -> str:
    return f"{spent:.1f} s" if spent >= 1 else f"{1000 * spent:.3g} ms"
