"""Figures of an edit: what was drawn where each thing was asked for, and how the editor got there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nam.report.figures import svg_uri

#: Asked concept -> drawn concept -> share.
Matrix = Mapping[str, Mapping[str, float]]

#: From which change of a share a cell of the matrix is framed.
CHANGED = 0.2

#: What an editor reports of its steps, how to say it, and its colour; a distance is a share of the start's.
CURVES = {
    "edit/image_left": ("drawing states: distance left", "#db2777"),
    "edit/drawn_left": ("conditioning of the picture: distance left", "#f59e0b"),
    "edit/text_left": ("states of the words: distance left", "#2563eb"),
    "edit/probability": ("probability of the words to be said", "#7c3aed"),
    "edit/disturbed": ("what should stay: disturbance", "#64748b"),
}

#: The terms of the loss, and how to say them.
LOSSES = {
    "edit/loss": "whole loss, weighted",
    "edit/image": "pictures not yet as wanted",
    "edit/text": "words not yet said",
    "edit/keep": "change of what should stay",
    "edit/norm": "size of the change, squared",
}


def matrix_figure(before: Matrix, after: Matrix) -> Any:
    """Which thing was drawn (columns) where each was asked for (rows), before and after, as a figure of
    matplotlib; what the edit changed by more than CHANGED is framed."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    rows = [row for row, drawn in before.items() if drawn]
    columns = [*before, "nothing"]
    old, new = (
        np.array([[table[row].get(column, 0.0) for column in columns] for row in rows]).reshape(len(rows), -1)
        for table in (before, after)
    )
    figure = Figure(figsize=(11, 5.2), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.15)  # type: ignore[union-attr, call-arg]
    for panel, title, values in zip(figure.subplots(1, 2), ("before", "after"), (old, new), strict=True):
        panel.imshow(values, vmin=0, vmax=1, cmap="Blues")
        panel.set_title(title, fontsize=11, loc="left", color="#334155")
        panel.set_xticks(range(len(columns)), columns, rotation=90)
        panel.set_yticks(range(len(rows)), rows)
        panel.set_xlabel("drawn", color="#475569")
        panel.set_ylabel("asked for", color="#475569")
        panel.tick_params(length=0, colors="#475569")
        panel.spines[:].set_color("#e2e8f0")
        for y, x in zip(*np.nonzero(values), strict=True):
            colour = "white" if values[y, x] > 0.55 else "#334155"
            panel.text(x, y, f"{100 * values[y, x]:.0f}", ha="center", va="center", fontsize=7, color=colour)
    for y, x in zip(*np.nonzero(np.abs(new - old) > CHANGED), strict=True):
        figure.axes[1].add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor="#db2777", lw=1.8))
    return figure


def curve_figure(steps: Sequence[Mapping[str, float]]) -> str | None:
    """What the editor reached, step by step; None where it took fewer than two steps."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    if len(steps) < 2:
        return None
    names = [name for name in CURVES if any(name in step for step in steps)]
    # A solver has no loss: what it logs as its norm is no term of one.
    losses = [name for name in LOSSES if any(name in step and "edit/loss" in step for step in steps)]
    panels = [(names, True), *([(losses, False)] if losses else [])]
    figure = Figure(figsize=(5.2 * len(panels), 2.9), layout="constrained")
    for panel, (shown, shares) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for name in shown:
            label, colour = CURVES.get(name, (LOSSES.get(name, name), None))
            points = _points(steps, name)
            marker = "o" if len(points) < 30 else ""
            panel.plot(*zip(*points, strict=True), marker=marker, ms=3, lw=1.6, color=colour, label=label)
        if not shares:
            panel.set_yscale("log")
        title = "what was achieved (shares)" if shares else "what was minimised (logarithmic)"
        panel.set_title(title, fontsize=9, loc="left", color="#334155")
        panel.set_ylim(bottom=0 if shares else None)
        panel.set_xlabel("step", fontsize=8, color="#475569")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))
        panel.tick_params(labelsize=8, colors="#475569", length=0)
        panel.spines[:].set_visible(False)
        panel.grid(color="#e2e8f0", linewidth=0.8)
        panel.legend(fontsize=7.5, frameon=False, labelcolor="#334155")
    return svg_uri(figure)


def _points(steps: Sequence[Mapping[str, float]], name: str) -> list[tuple[float, float]]:
    """Step and value; a value that stands for several steps counts once, and a distance begins with all."""
    found = [(0.0, 1.0)] if name.endswith("_left") else []
    for step in steps:
        if name in step and (not found or found[-1][1] != step[name]):
            found.append((step["step"], step[name]))
    return found
