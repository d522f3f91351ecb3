"""What a run prints when it is done."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nam.report.html import REPORT_FILE, error_views
from nam.report.tops import top_neurons
from nam.store import Run

#: Most reasons of errors that are printed.
_REASONS = 8

_TITLES = {"text": "T-neurons: they say it", "image": "I-neurons: they draw it"}


def print_closing(folder: str | Path, *, top: int = 3, console: Console | None = None) -> None:
    """Print each concept's top neurons with their words, the errors, what it cost, and where the report is.

    Args:
        folder: A finished run.
        top: Neurons of each concept and modality.
        console: Where to; the terminal by default.
    """
    console = console or Console()
    run = Run(folder)
    tops = top_neurons(run, top=top)
    for method in sorted(set(tops["method"])):
        mine = tops[tops["method"] == method]
        table = Table("concept", *_TITLES.values(), title=f"top neurons by {method}", show_lines=True)
        for concept in dict.fromkeys(run.samples["concept"]):
            cells = []
            for modality in _TITLES:
                rows = mine[(mine["concept"] == concept) & (mine["modality"] == modality)]
                cells.append(
                    "\n".join(
                        f"[bold]L{row['layer']}.U{row['unit']}[/bold] {escape(row['words'])}"
                        for row in rows.to_dict("records")
                    )
                    or "-"
                )
            table.add_row(escape(concept or "-"), *cells)
        console.print(table)
    failed = int((run.samples["status"] == "error").sum())
    console.print(f"{len(run.samples)} samples, {failed} of them with an error", highlight=False)
    for view in error_views(run)[:_REASONS]:
        console.print(f"  {view.count} x {escape(view.reason)}", highlight=False)
    seconds = run.metrics.get("seconds", {})
    stages = ", ".join(f"{stage} {spent:.1f} s" for stage, spent in seconds.items() if spent >= 0.05)
    console.print(f"time: {stages}", highlight=False)
    console.print(f"report: {run.folder / REPORT_FILE}", highlight=False, soft_wrap=True)
