"""The leaderboard as a figure, as Markdown, and as a page that opens offline."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nam.evaluate.leaderboard import Row
from nam.evaluate.leaderboard.settings import HEADLINES
from nam.evaluate.leaderboard.table import NO_REGION, cell, markdown, pivot
from nam.report.pages import facts_of, moment, write_page
from nam.store.files import atomic, clean

#: Colour and words of each region.
REGIONS: Mapping[str, tuple[str, str]] = {
    "mask": ("#db2777", "with the concept's region"),
    "whole": ("#7c3aed", "relevance of the whole picture"),
    "ones": ("#94a3b8", "no relevance (eq. 15)"),
    NO_REGION: ("#2563eb", "knows no region"),
}

#: Panels of the figure: title, modality, and what is measured of the effect.
PANELS = (
    ("Words: change of the concept's logit, all neurons", "text", "logit"),
    (
        "Pictures: change inside the region, drawn again by the whole sampler (weighted sample)",
        "image",
        "pixels",
    ),
    ("Pictures: change inside the region by the proxy, all neurons", "image", "proxy_pixels"),
)

#: What the title of a table says of a modality, or of a set of neurons; of anything else it is "Both".
MODALITIES: Mapping[str, str] = {"text": "Words", "image": "Pictures", "either": "Either"}

#: What a panel shows of each effect: a measure and how to say it.
_AXES = {"spearman": "Spearman", "recall@50": "recall@50", "pearson": "Pearson"}


def write_figure(rows: Sequence[Row], path: Path, *, reference: str) -> Path:
    """Draw every method's agreement with the truth, with intervals, as PNG: a row of panels a modality.

    Args:
        rows: Of the leaderboard.
        path: Of the file.
        reference: The method whose name is set in bold.
    """
    from matplotlib.figure import Figure

    there = {(row.modality, row.measure) for row in rows}
    shown = [panel for panel in PANELS if (panel[1], f"spearman[{panel[2]}]") in there]
    lines = [_methods(rows, modality, f"spearman[{effect}]") for _, modality, effect in shown]
    heights = [0.9 + 0.27 * len(methods) for methods in lines]
    figure = Figure(figsize=(11, sum(heights) + 0.6), layout="constrained")
    parts: Any = figure.subfigures(max(1, len(shown)), 1, height_ratios=heights or [1], squeeze=False)
    for part, (title, modality, effect), methods in zip(parts[:, 0], shown, lines, strict=False):
        part.suptitle(title, fontsize=11, x=0.01, ha="left", color="#1e293b")
        measures = [name for name in _AXES if (modality, f"{name}[{effect}]") in there]
        panels = np.atleast_1d(part.subplots(1, len(measures), sharey=True))
        for panel, name in zip(panels, measures, strict=True):
            mine = [r for r in rows if r.modality == modality and r.measure == f"{name}[{effect}]"]
            _panel(panel, mine, methods, reference)
            panel.set_title(_AXES[name], fontsize=9, loc="left", color="#475569")
        _legend(part, rows, modality)
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
    return path


def write_markdown(rows: Sequence[Row], path: Path, *, manifest: Mapping[str, Any]) -> Path:
    """Write every row, a table a modality and family of measures, for documents."""
    with atomic(path) as temporary:
        temporary.write_text(clean(to_markdown(rows, manifest=manifest)), encoding="utf-8")
    return path


def to_markdown(rows: Sequence[Row], *, manifest: Mapping[str, Any]) -> str:
    """The leaderboard in Markdown, beginning with what it was measured on."""
    lines = ["# Every method, every measure", "", *_facts(manifest), ""]
    for title, modality, names in sections(rows):
        table = [markdown(rows, modality=modality, measures=names)]
        table += [f"{name}: {note}.\n" for name, note in notes_of(rows, names).items()]
        if names[0] in HEADLINES.get(modality, ()):
            lines += [f"## {title}", "", *table]
        else:
            lines += [f"<details><summary>{title}</summary>", "", *table, "</details>", ""]
    return "\n".join(lines)


def _facts(manifest: Mapping[str, Any]) -> list[str]:
    """By which command a leaderboard was measured, on what, and when."""
    machine, cases = manifest["machine"], manifest["cases"]
    elsewhere = ("run_dir=", "resume=", "logger=", "evaluate.cache=")
    given = [one for one in manifest["overrides"] if not one.startswith(elsewhere)]
    versions = ", ".join(f"{name} {number}" for name, number in manifest["versions"].items())
    return [
        f"Measured by `{' '.join(['python attribute.py', *given])}` on {manifest['finished'][:10]}, at "
        f"commit {str(manifest['git_commit'])[:7]}, on {machine.get('accelerator', machine['processor'])}, "
        f"{machine['cores']} cores, {machine['system']}, in {manifest['seconds']:.0f} s (without the time of "
        f"truths that were cached before); {versions}.",
        "",
        f"The model is {manifest['model']['name']} (weights {manifest['model']['revision']}), the prompts "
        f"the split {manifest['split']!r} at seed {manifest['seed']}: {cases['text']} targets in words, "
        f"{cases['image']} in pictures, {len(manifest['errors'])} that could not be attributed. Intervals "
        "are 95 % bootstrap intervals over concepts.",
    ]


def build_leaderboard_report(
    rows: Sequence[Row], folder: Path, *, manifest: Mapping[str, Any], reference: str
) -> Path:
    """Write report.html of a leaderboard's run folder, with the figure that stands there."""
    image = base64.b64encode((folder / "leaderboard.png").read_bytes()).decode()
    tables = [
        (title, names, pivot(rows, modality=modality, measures=names), notes_of(rows, names))
        for title, modality, names in sections(rows)
    ]
    return write_page(
        "leaderboard.html.j2",
        folder,
        manifest=manifest,
        started=moment(manifest.get("started")),
        facts=facts_of(manifest, without=("errors",)),
        reference=reference,
        figure=f"data:image/png;base64,{image}",
        tables=tables,
        verdicts=verdicts(rows, reference=reference),
    )


def sections(rows: Sequence[Row]) -> list[tuple[str, str, list[str]]]:
    """Title, modality and measures of each table: the headlines, then one a modality and kind of measure."""
    found: list[tuple[str, str, list[str]]] = []
    modalities = list(dict.fromkeys(row.modality for row in rows))
    for modality in modalities:
        names = list(dict.fromkeys(row.measure for row in rows if row.modality == modality))
        first = [name for name in HEADLINES.get(modality, ()) if name in names]
        groups: dict[str, list[str]] = {"agreement with exact ablation": first} if first else {}
        for name in names:
            if name not in first:
                groups.setdefault(_kind(name), []).append(name)
        said = MODALITIES.get(modality, "Both")
        found += [(f"{said}: {kind}", modality, mine) for kind, mine in groups.items()]
    return found


def verdicts(rows: Sequence[Row], *, reference: str) -> list[str]:
    """For each headline: whether the reference leads the best other method, and by how much."""
    found = []
    for modality, names in HEADLINES.items():
        for measure in names:
            mine = [r for r in rows if r.modality == modality and r.measure == f"lead {measure}"]
            mine = [
                r for r in mine if r.method not in ("proxy", "ablation") and r.region in ("mask", NO_REGION)
            ]
            if mine:
                row = min(mine, key=lambda one: one.value)
                word = "leads" if row.low > 0 else "trails" if row.high < 0 else "is level with"
                found.append(f"{modality}, {measure}: {reference} {word} {row.method} by {cell(row)}")
    return found


def notes_of(rows: Sequence[Row], names: Sequence[str]) -> dict[str, str]:
    """What one has to know of some measures, by their names before any bracket or "@"."""
    found = {}
    for row in rows:
        if row.measure in names and row.note and not row.measure.startswith("lead "):
            found[row.measure.partition("[")[0].partition("@")[0]] = row.note
    return found


def _kind(measure: str) -> str:
    if measure.startswith("lead "):
        return "lead over each method"
    return measure.partition("[")[0].partition("@")[0].partition(" ")[0]


def _methods(rows: Sequence[Row], modality: str, measure: str) -> list[str]:
    """The methods by their best figure, the best last (at the top of an axis)."""
    best: dict[str, float] = {}
    for row in rows:
        if row.modality == modality and row.measure == measure:
            best[row.method] = max(best.get(row.method, -np.inf), row.value)
    return sorted(best, key=lambda name: best[name])


def _panel(panel: Any, rows: Sequence[Row], methods: Sequence[str], reference: str) -> None:
    regions = [r for r in REGIONS if r != NO_REGION and any(row.region == r for row in rows)]
    for row in rows:
        shift = 0.0
        if row.region in regions:
            shift = 0.22 * ((len(regions) - 1) / 2 - regions.index(row.region))
        colour, y = REGIONS[row.region][0], methods.index(row.method) + shift
        if np.isfinite(row.low):
            panel.plot([row.low, row.high], [y, y], color=colour, lw=1.8, alpha=0.6, solid_capstyle="round")
        panel.plot([row.value], [y], "o", color=colour, ms=4.5)
    panel.set_yticks(range(len(methods)), methods, fontsize=8.5)
    for label in panel.get_yticklabels():
        label.set_fontweight("bold" if label.get_text() == reference else "normal")
    panel.axvline(0, color="#cbd5e1", lw=0.8, zorder=0)
    panel.set_xlim(right=1.03)
    panel.grid(axis="both", color="#f1f5f9", zorder=0)
    panel.tick_params(labelsize=8, colors="#475569", length=0)
    for side in ("top", "right", "left", "bottom"):
        panel.spines[side].set_visible(False)


def _legend(part: Any, rows: Sequence[Row], modality: str) -> None:
    from matplotlib.lines import Line2D

    used = [region for region in REGIONS if any(r.modality == modality and r.region == region for r in rows)]
    if modality == "image":
        handles = [
            Line2D([], [], marker="o", lw=0, ms=5, color=REGIONS[r][0], label=REGIONS[r][1]) for r in used
        ]
        part.legend(
            handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8, frameon=False
        )
