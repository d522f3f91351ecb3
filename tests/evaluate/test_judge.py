"""The judge says what its network says, of every form of picture, and refuses the rest."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nam.errors import InputError, ModelError
from nam.evaluate.judge import Judge, load_judge, log_odds, split_logits, verdicts
from nam.world.labels import presence
from nam.world.language import facts_of
from nam.world.render import render
from nam.world.scene import COLOURS, NOUNS, PLACES, sample_scene
from tests.evaluate.tiny_judge import write_judge


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    return load_judge(write_judge(tmp_path_factory.mktemp("weights")))


def pictures(count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.stack([render(sample_scene(rng), rng=rng).image for _ in range(count)])


def certain_logits(scenes: list) -> torch.Tensor:
    """Logits of a judge that is sure of what the scenes hold, in the label layout of the training."""
    rows = []
    for scene in scenes:
        table, place = presence(scene)
        things = torch.nn.functional.one_hot(torch.from_numpy(table), 1 + len(COLOURS)).flatten()
        places = torch.nn.functional.one_hot(torch.tensor(place), len(PLACES))
        rows.append(20.0 * torch.cat([things, places]))
    return torch.stack(rows)


def test_labels_are_read_back_as_facts() -> None:
    rng = np.random.default_rng(1)
    scenes = [sample_scene(rng, two_things=0.5) for _ in range(40)]
    for scene, verdict in zip(scenes, verdicts(*split_logits(certain_logits(scenes))), strict=True):
        assert sorted(verdict.facts.things) == sorted(facts_of(scene).things)  # type: ignore[type-var]
        assert verdict.place == scene.place
        assert all(probability > 0.99 for _, probability in verdict.things.values())
        assert verdict.place_probability > 0.99


def test_probabilities_are_those_of_the_softmax() -> None:
    generator = torch.Generator().manual_seed(0)
    table, place = torch.randn(6, 13, 9, generator=generator), torch.randn(6, 6, generator=generator)
    there = 1 - table.softmax(-1)[..., 0]
    torch.testing.assert_close(log_odds(table), torch.log(there / (1 - there)))
    found = verdicts(table, place)
    for row, verdict in enumerate(found):
        assert set(verdict.things) == {NOUNS[i] for i in range(13) if there[row, i] >= 0.5}
        for noun, (colour, probability) in verdict.things.items():
            i = NOUNS.index(noun)
            assert math.isclose(probability, float(there[row, i]), abs_tol=1e-6)
            assert colour == COLOURS[int(table[row, i, 1:].argmax())]
        order = [probability for _, probability in verdict.things.values()]
        assert order == sorted(order, reverse=True)
        assert math.isclose(verdict.place_probability, float(place[row].softmax(0).max()), abs_tol=1e-6)


def test_a_verdict_depends_on_its_picture_alone(judge: Judge) -> None:
    images = pictures(5)
    together = judge(images)
    assert together == [judge(images[i : i + 1])[0] for i in range(5)]
    assert together == judge([Image.fromarray(image) for image in images])
    assert together[::-1] == judge(images[::-1])
    images.flags.writeable = False
    assert together == judge(images)
    evidence = judge.evidence(images)
    assert evidence.shape == (5, len(NOUNS))
    assert evidence.std(0).max() > 1e-3  # pictures do make a difference
    for row, verdict in enumerate(together):
        assert set(verdict.things) == {NOUNS[i] for i in range(13) if evidence[row, i] >= 0}
    assert any(verdict.things for verdict in together)


def test_the_saved_statistics_are_used(judge: Judge) -> None:
    means = [buffer for name, buffer in judge.model.named_buffers() if name.endswith("running_var")]
    assert means
    assert all(buffer.dtype == torch.float32 and float(buffer.max()) < 0.2 for buffer in means)


def test_a_judge_is_frozen(judge: Judge) -> None:
    assert not judge.model.training
    assert not any(parameter.requires_grad for parameter in judge.model.parameters())
    verdict = judge(pictures(1))[0]
    with pytest.raises(dataclasses.FrozenInstanceError):
        verdict.place = "sea"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (np.zeros((1, 32, 32, 3), np.uint8), r"got uint8 of shape \(1, 32, 32, 3\)"),
        (np.zeros((1, 64, 64, 3), np.float32), "got float32"),
        (np.zeros((0, 64, 64, 3), np.uint8), r"shape \(0, 64"),
        ([Image.new("RGB", (64, 48))], "got 64x48"),
        ([np.zeros((64, 64, 3), np.uint8)], "got ndarray"),
        ([], "got an empty list"),
    ],
)
def test_other_pictures_are_refused(judge: Judge, images: object, said: str) -> None:
    with pytest.raises(InputError, match=said):
        judge(images)  # type: ignore[arg-type]


def test_a_missing_or_foreign_judge_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="missing weights"):
        load_judge(tmp_path)
    with pytest.raises(ModelError, match="123 labels, got 10"):
        load_judge(write_judge(tmp_path, labels=10))
