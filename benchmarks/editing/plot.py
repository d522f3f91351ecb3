"""One figure: what every editor reaches and what it costs, and the norm of equal change by selection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.editing.figures import Rows, measure
from benchmarks.editing.report import grouped
from benchmarks.quality.rows import Spec

_DPI = 110
_GROWTH = Spec("growth", "", unit="")


def draw(rows: Rows, path: Path) -> None:
    """Write the figure as PNG; a panel without rows stays empty."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.5, 4.0), dpi=_DPI, layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[1, 1, 1.15])
    editors = grouped(rows, "editors", "image")
    for axis, key, title in (
        (left, "drawn", "target drawn (%)"),
        (middle, "others", "everything else kept (%)"),
    ):
        _scatter(axis, editors, key)
        axis.set(xscale="log", ylim=(-4, 104), xlabel="l2 norm of the change", ylabel=title)
        axis.grid(alpha=0.3)
    if left.get_legend_handles_labels()[0]:
        left.legend(fontsize=8, loc="center right")
    left.set_title("edits of pictures, one point a pair", fontsize=9)
    middle.set_title("other things: same things drawn, same words", fontsize=9)
    _bars(right, grouped(rows, "growth", "image"))
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(path)


def _scatter(axis: Any, editors: Mapping[str, Sequence[Mapping[str, Any]]], key: str) -> None:
    for label, group in editors.items():
        points = [
            (row["norm"], kept(row) if key == "others" else 100 * np.mean(row["observed"][key]))
            for row in group
            if not row.get("problem") and row["observed"].get("drawn")
        ]
        if points:
            axis.scatter(*zip(*points, strict=True), s=32, alpha=0.75, label=label)


def kept(row: Mapping[str, Any]) -> float:
    """Percent of the other things' pictures and answers that are as they were."""
    seen = row["observed"]
    values = [value for key in ("others_drawn", "others_text", "others_caption") for value in seen[key]]
    return 100 * float(np.mean(values)) if values else float("nan")


def _bars(axis: Any, selections: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    found = {label: measure(group, _GROWTH) for label, group in selections.items()}
    shown = sorted(((m.value, label, m) for label, m in found.items() if m is not None), reverse=True)
    for row, (value, _, m) in enumerate(shown):
        low, high = (value if m.low is None else m.low), (value if m.high is None else m.high)
        axis.barh(row, value, xerr=[[value - low], [high - value]], color="#4c78a8", ecolor="#333333")
    axis.set_yticks(range(len(shown)), [label for _, label, _ in shown], fontsize=8)
    axis.set_xlabel("l2 norm where the pictures have turned (eq. 8)")
    axis.set_title("the same change by every selection", fontsize=9)
