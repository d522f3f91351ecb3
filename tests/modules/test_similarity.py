"""scene_similarity in training, exported, and as shipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from nam.app.build import build
from nam.app.config import compose
from nam.data.similarity import SimilarPairs
from nam.evaluate.scene_similarity import load_scene_similarity
from nam.modules.similarity import SimilarityPart
from tests.evaluate.tiny_text import SIZES


@pytest.fixture
def part() -> SimilarityPart:
    torch.manual_seed(0)
    sizes = {name: value for name, value in SIZES.items() if name != "max_position_embeddings"}
    return SimilarityPart(model=sizes, lr=1e-3)


def test_losses_by_hand(part: SimilarityPart) -> None:
    batch = SimilarPairs()(np.random.default_rng(0), 8, "train")
    texts = {name: value for name, value in batch.items() if name != "overlap"}
    with torch.no_grad():
        said = part.model(**texts).logits.flatten().double().numpy()
        found = {name: float(value) for name, value in part.losses(batch).items()}
    true = batch["overlap"].double().numpy()
    assert found["loss"] == pytest.approx(np.mean((said - true) ** 2), rel=1e-4)
    assert found["mae"] == pytest.approx(np.mean(np.abs(said - true)), rel=1e-4)
    assert found["pearson"] == pytest.approx(np.corrcoef(said, true)[0, 1], rel=1e-3)
    loss = part.losses(batch)["loss"]
    loss.backward()
    assert all(p.grad is not None for p in part.model.parameters())


def test_the_export_is_what_the_measure_reads(part: SimilarityPart, tmp_path: Path) -> None:
    part.export(tmp_path / "run")
    rating = load_scene_similarity(tmp_path / "run")
    assert rating.column == "scene_similarity[run]"
    encoded = part.tokenizer("a red horse", "pony, cat", return_tensors="pt")
    with torch.no_grad():
        expected = float(part.model(**encoded).logits)
    assert float(rating(["pony, cat"], ["a red horse"])) == pytest.approx(
        expected, abs=5e-3
    )  # half precision


def test_the_configuration_builds_it() -> None:
    config = compose("train", ["experiment=tiny_gill/similarity"])
    assert sum(p.numel() for p in build(config.part.module).parameters()) < 500_000
    batch = build(config.part.data).make(np.random.default_rng(0), 4, "val")
    assert batch["overlap"].shape == (4,)
    assert "similarity" in compose("train", ["experiment=tiny_gill/all"]).parts


def test_the_shipped_one_knows_captions_and_words_never_seen() -> None:
    rating, rng = load_scene_similarity("tiny_gill"), np.random.default_rng(99)
    for words in (0.0, 1.0):
        make = SimilarPairs(held_out=True, words=words)
        first, second, true = zip(*(make.pair(rng, "test") for _ in range(300)), strict=True)
        found = rating(second, first).numpy()
        assert np.corrcoef(found, true)[0, 1] > 0.95
        assert np.abs(found - true).mean() < 0.05
    horse, cat, none = rating(["horse, horses, pony", "cat, kitten, meow", "of, the, seven"], ["a horse"] * 3)
    assert horse > 0.8 > 0.2 > max(cat, none)
