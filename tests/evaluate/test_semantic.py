"""Semantic relevance asks every measure about every picture and caption, and names what it asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nam.evaluate.bertscore import load_bertscore
from nam.evaluate.clipscore import load_clipscore
from nam.evaluate.scene_similarity import load_scene_similarity
from nam.evaluate.semantic import semantic_relevance
from tests.evaluate.tiny_text import write_similarity


class Letters:
    """How many letters the first text has more."""

    column = "letters[hand]"

    def __call__(self, candidates: Sequence[str], references: Sequence[str]) -> Tensor:
        return torch.tensor([float(len(a) - len(b)) for a, b in zip(candidates, references, strict=True)])


def test_every_measure_by_role() -> None:
    found = semantic_relevance(
        ["horse, pony", "cat"], pictures={}, captions={"in": "a horse", "out": "a"}, text_measures=[Letters()]
    )
    assert {name: values.tolist() for name, values in found.items()} == {
        "letters[hand]|in": [4, -4],
        "letters[hand]|out": [10, 2],
    }


def test_real_measures_fill_their_columns(gill_folder: Path, tmp_path: Path) -> None:
    folder = write_similarity(tmp_path / "texts")
    rng = np.random.default_rng(0)
    pictures = {
        role: Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)) for role in ("in", "out")
    }
    words = ["horse, pony, foal", "cat, kitten", "red, blue"]
    clip, rating = load_clipscore(gill_folder), load_scene_similarity(folder)
    found = semantic_relevance(
        words,
        pictures=pictures,
        captions={"in": "a red horse"},
        picture_measures=[clip],
        text_measures=[load_bertscore(folder), rating],
    )
    roles = {f"{clip.column}|in", f"{clip.column}|out"}
    assert set(found) == {*roles, "bertscore[texts,layer=2]|in", "scene_similarity[texts]|in"}
    torch.testing.assert_close(found[f"{clip.column}|out"], clip(words, [pictures["out"]] * 3))
    torch.testing.assert_close(found[f"{rating.column}|in"], rating(words, ["a red horse"] * 3))
