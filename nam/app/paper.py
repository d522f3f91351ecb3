"""`attribute.py experiment=paper_...`: how a run ends that sets a paper's own figures beside ours."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from nam.app.quiet import say

if TYPE_CHECKING:
    from nam.evaluate.leaderboard import Row
    from nam.evaluate.leaderboard.published import PaperRun

#: File of the run folder.
MARKDOWN_FILE = "paper.md"


def report_paper(run: PaperRun, rows: Sequence[Row], folder: Path, *, manifest: dict[str, Any]) -> Path:
    """Write the report and its tables for documents, and print the figures; the path of the report."""
    from nam.evaluate.leaderboard.published import beside
    from nam.report.paper import build_paper_report, write_paper_markdown

    write_paper_markdown(run, rows, folder / MARKDOWN_FILE, manifest=manifest)
    report = build_paper_report(run, rows, folder, manifest=manifest)
    console = Console()
    for one in beside(run, rows):
        table = Table("", *one.head, title=one.title, box=SIMPLE, padding=(0, 1, 0, 0))
        for line in one.lines:
            # The intervals are in the files: with them no terminal is wide enough.
            table.add_row(*(re.sub(r" \[[^]]*\]", "", text) for text in line))
        console.print(table)
    for path in (folder / MARKDOWN_FILE, report):
        say(str(path))
    return report
