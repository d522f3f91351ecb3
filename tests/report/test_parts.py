"""Parts of a report by themselves: layers of neurons, regions over pictures, marked words, bars."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from nam.report.figures import layer_counts, layer_figure, top_sizes
from nam.report.overlays import enlarge, marked_text, overlay
from nam.report.views import bars
from nam.store import MeanScores


def test_layers_of_the_top_neurons() -> None:
    text = np.array([[9.0, 8, 1], [0, 7, 2]])
    image = np.array([[9.0, 1, 2], [8, 7, 0]])
    said, drawn = (
        MeanScores(np.float32(values), np.zeros((2, 3), np.float32), 1) for values in (text, image)
    )
    found = layer_counts(said, drawn, top=3)
    counts = {kind: values.tolist() for kind, values in found.items()}
    assert counts == {"T": [2, 1], "I": [1, 2], "T and I": [1, 1], "T or I": [2, 2]}
    assert layer_figure({3: found}).startswith("data:image/svg+xml;base64,")
    assert top_sizes(6) == (1,)


def test_an_overlay_changes_the_region_and_its_outline_alone() -> None:
    picture = Image.fromarray(np.full((64, 64, 3), 120, np.uint8))
    mask = np.zeros((64, 64), bool)
    mask[16:48, 16:48] = True
    marked = np.asarray(overlay(picture, mask, side=256)).astype(int)
    changed = np.abs(marked - 120).max(axis=2) > 2
    assert marked.shape == (256, 256, 3)
    assert changed[64:192, 64:192].all()
    assert not changed[:58].any()
    assert not changed[:, 198:].any()
    assert np.array_equal(overlay(picture, np.zeros((64, 64), bool)), enlarge(picture))


@pytest.mark.parametrize("size", [(1, 1), (3, 700), (700, 3)])
def test_pictures_of_any_size_fit(size: tuple[int, int]) -> None:
    assert max(enlarge(Image.new("RGB", size), side=64).size) == 64
    assert max(overlay(Image.new("RGB", size), np.ones((5, 9), bool), side=64).size) == 64


def test_marked_words() -> None:
    assert marked_text("A Horse & horses.", ("horse", "horses")) == (
        "A <mark>Horse</mark> &amp; <mark>horses</mark>."
    )
    assert marked_text("seahorse", ("horse", " ")) == "seahorse"
    assert marked_text("<b>", ()) == "&lt;b&gt;"


def test_bars_are_proportions() -> None:
    np.testing.assert_allclose(bars([-1.0, -2.0, -3.0]), np.exp([0.0, -1, -2]))
    assert bars([2.0, 1.0, -1.0]) == [1.0, 0.5, 0.0]
    assert bars([]) == []
