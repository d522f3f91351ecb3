"""The report of a paper's run: the paper's own figures beside ours, in Markdown and as a page."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nam.evaluate.leaderboard import Row
from nam.evaluate.leaderboard.layers import SETS
from nam.evaluate.leaderboard.published import Beside, PaperRun, beside
from nam.evaluate.leaderboard.table import markdown, pivot
from nam.report.leaderboard import notes_of, sections
from nam.report.pages import facts_of, moment, write_page
from nam.store.files import atomic, clean

#: Colour and words of each set of neurons.
_COLOURS: Mapping[str, tuple[str, str]] = {
    "text": ("#2563eb", "T-neurons"),
    "image": ("#db2777", "I-neurons"),
    "both": ("#7c3aed", "both"),
    "either": ("#94a3b8", "either"),
}

_LAYER = re.compile(r"layer@(\d+)\[(\d+)\]")


def build_paper_report(
    run: PaperRun, rows: Sequence[Row], folder: Path, *, manifest: Mapping[str, Any]
) -> Path:
    """Write report.html into a run folder, which opens offline; its path."""
    others = [row for row in rows if not _LAYER.fullmatch(row.measure)]
    return write_page(
        "paper.html.j2",
        folder,
        run=run,
        manifest=manifest,
        started=moment(manifest.get("started")),
        facts=facts_of(manifest, without=("errors",)),
        beside=beside(run, rows),
        figures=layer_figures(rows),
        tables=[
            (title, names, pivot(others, modality=modality, measures=names), notes_of(others, names))
            for title, modality, names in sections(others)
        ],
    )


def write_paper_markdown(
    run: PaperRun, rows: Sequence[Row], path: Path, *, manifest: Mapping[str, Any]
) -> Path:
    """Write the same tables for documents."""
    lines = [f"# {run.title}", "", " ".join(run.about.split()), ""]
    cases = manifest["cases"]
    lines += [
        f"Ours: {manifest['model']['name']} (weights {manifest['model']['revision']}), seed "
        f"{manifest['seed']}, {cases['text']} targets in words, {cases['image']} in pictures, "
        f"{len(manifest['errors'])} that could not be attributed, in {manifest['seconds']:.0f} s.",
        "",
    ]
    for table in beside(run, rows):
        lines += _markdown(table)
    for title, modality, names in sections(rows):
        lines += [
            f"<details><summary>{title}</summary>",
            "",
            markdown(rows, modality=modality, measures=names),
        ]
        lines += [*(f"{name}: {note}.\n" for name, note in notes_of(rows, names).items()), "</details>", ""]
    with atomic(path) as temporary:
        temporary.write_text(clean("\n".join(lines)), encoding="utf-8")
    return path


def layer_figures(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """A title and a PNG as a data URL for each method whose layers were counted."""
    counts: dict[str, dict[int, dict[str, dict[int, float]]]] = {}
    for row in rows:
        match = _LAYER.fullmatch(row.measure)
        if match:
            sets = counts.setdefault(row.method, {}).setdefault(int(match[1]), {})
            sets.setdefault(row.modality, {})[int(match[2])] = row.value
    return [(f"Layers of the top neurons by {name}", _draw(found)) for name, found in counts.items()]


def _draw(counts: Mapping[int, Mapping[str, Mapping[int, float]]]) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 2.6), layout="constrained")
    panels: Any = np.atleast_1d(figure.subplots(1, len(counts)))
    for panel, (k, sets) in zip(panels, sorted(counts.items()), strict=True):
        for place, name in enumerate(one for one in SETS if one in sets):
            layers = sorted(sets[name])
            shift = (place - 1.5) * 0.2
            heights = [sets[name][layer] for layer in layers]
            colour, label = _COLOURS[name]
            panel.bar([layer + shift for layer in layers], heights, 0.2, color=colour, label=label)
        panel.set_title(f"top {k}", fontsize=9, loc="left", color="#475569")
        panel.set_xlabel("layer", fontsize=8)
        panel.tick_params(labelsize=8, colors="#475569", length=0)
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    panels[0].legend(fontsize=8, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _markdown(table: Beside) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(one.replace("|", "\\|") for one in cells) + " |"

    head = ["", *table.head]
    found = [f"## {table.title}", "", line(head), "|" + " --- |" * len(head), *map(line, table.lines), ""]
    return [*found, " ".join(table.note.split()), ""] if table.note else found
