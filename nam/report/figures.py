"""Figures of a report, as SVG in data URIs. No text from data enters a figure."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nam.store import MeanScores

#: Colours of neurons that write (T), draw (I), do both, or either.
COLOURS = {"T": "#2563eb", "I": "#db2777", "T and I": "#7c3aed", "T or I": "#94a3b8"}

#: Numbers of top neurons whose layers the paper shows.
TOPS = (100, 300, 600)


def top_sizes(neurons: int) -> tuple[int, ...]:
    """The paper's 100, 300 and 600, scaled down where 600 is more than a tenth of the model's neurons.

    >>> top_sizes(524_288), top_sizes(120)
    ((100, 300, 600), (2, 6, 12))
    """
    scale = min(1.0, neurons / 10 / TOPS[-1])
    return tuple(dict.fromkeys(max(1, round(top * scale)) for top in TOPS))


def layer_counts(text: MeanScores, image: MeanScores, *, top: int) -> dict[str, NDArray[np.int64]]:
    """How many of the top neurons lie in each layer: T, I, both, either; each (L,).

    Args:
        text: Scores of the words.
        image: Scores of the picture.
        top: Neurons of each kind.
    """
    said, drawn = set(text.top(top)), set(image.top(top))
    sets = {"T": said, "I": drawn, "T and I": said & drawn, "T or I": said | drawn}
    layers = len(text.scores)
    return {
        name: np.bincount([layer for layer, _ in chosen], minlength=layers) for name, chosen in sets.items()
    }


def layer_figure(counts: Mapping[int, Mapping[str, Sequence[int] | NDArray[np.int64]]]) -> str:
    """Bars of neurons per layer, a panel for each number of top neurons.

    Args:
        counts: Number of top neurons -> what `layer_counts` gives.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(3.4 * len(counts), 2.3), layout="constrained")
    figure.get_layout_engine().set(wspace=0.06)  # type: ignore[union-attr, call-arg]
    panels = figure.subplots(1, len(counts), squeeze=False)[0]
    for panel, (top, kinds) in zip(panels, counts.items(), strict=True):
        width = 0.8 / len(kinds)
        for number, (kind, values) in enumerate(kinds.items()):
            places = np.arange(len(values)) + (number - (len(kinds) - 1) / 2) * width
            panel.bar(places, values, width, color=COLOURS[kind], label=kind)
        panel.set_title(f"top {top}", fontsize=9, loc="left", color="#334155")
        panel.set_xlabel("layer", fontsize=8, color="#475569")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12))
        panel.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
        panel.tick_params(labelsize=8, colors="#475569", length=0)
        panel.spines[:].set_visible(False)
        panel.grid(axis="y", color="#e2e8f0", linewidth=0.8)
        panel.set_axisbelow(True)
    panels[0].set_ylabel("neurons", fontsize=8, color="#475569")
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=4,
        fontsize=8,
        frameon=False,
        labelcolor="#334155",
    )
    return svg_uri(figure)


def svg_uri(figure: Any) -> str:
    """A matplotlib figure as SVG inside a URI, the same bytes whenever it is drawn."""
    import matplotlib

    buffer = BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "nam"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}"
