"""What the leaderboard asks and samples."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch

from nam.data.prompts import ScenePrompts
from nam.errors import ConfigError
from nam.evaluate.leaderboard import Case, Truths, split_items, with_region
from nam.evaluate.leaderboard.cost import peak_bytes
from nam.evaluate.leaderboard.masks import regions_of
from nam.reduction.act import Act
from nam.reduction.acu import AcU
from nam.types import Concept

SOURCE = ScenePrompts(concepts=("cat", "dog"), draw=5, draw_two=0, draw_riddle=0, riddle=0, caption=0)


def test_the_splits_share_nothing_and_miss_nothing() -> None:
    parts = {
        split: {item.sample.id for item in split_items(SOURCE, split=split, tuning=0.4, seed=3)}
        for split in ("held_out", "tuning", "all")
    }
    assert parts["tuning"] | parts["held_out"] == parts["all"]
    assert not parts["tuning"] & parts["held_out"]
    assert len([id for id in parts["tuning"] if id.startswith("cat")]) == 2
    again = {item.sample.id for item in split_items(SOURCE, split="tuning", tuning=0.4, seed=3)}
    others = [
        {item.sample.id for item in split_items(SOURCE, split="tuning", tuning=0.4, seed=seed)}
        for seed in range(4, 10)
    ]
    assert again == parts["tuning"]
    assert any(other != again for other in others)
    with pytest.raises(ConfigError, match="has no prompts"):
        split_items(SOURCE, split="tuning", tuning=0.0, seed=0)
    with pytest.raises(ConfigError, match=r"a share from 0 to below 1"):
        split_items(SOURCE, split="all", tuning=1.0, seed=0)


def test_a_concepts_split_does_not_depend_on_the_others() -> None:
    alone = ScenePrompts(concepts=("dog",), draw=5, draw_two=0, draw_riddle=0, riddle=0, caption=0)
    both = {item.sample.id for item in split_items(SOURCE, split="tuning", tuning=0.4, seed=1)}
    mine = {item.sample.id for item in split_items(alone, split="tuning", tuning=0.4, seed=1)}
    assert mine == {id for id in both if id.startswith("dog")}


def a_case(name: str, activations: torch.Tensor, scores: dict[tuple[str, str], np.ndarray]) -> Case:
    """A case with what a sample is drawn from, and nothing else."""
    item = SimpleNamespace(sample=SimpleNamespace(id=name))
    work = SimpleNamespace(item=item, concept=Concept("cat"))
    return Case(cast("object", work), "image", SimpleNamespace(activations=activations), scores)  # type: ignore[arg-type]


def test_the_weighted_sample_is_unbiased_and_keeps_tops_and_the_silent() -> None:
    rng = np.random.default_rng(0)
    activations = torch.from_numpy(rng.random((2, 3, 40)).astype(np.float32))
    activations[1, :, 20:] = 0  # 20 of 80 neurons do not fire
    effects = rng.normal(size=(2, 40))
    effects[1, 20:] = 0
    effects[0, 7] = 50.0  # the only neuron that matters, and a method's first
    scores = np.zeros((2, 40), np.float32)
    scores[0, 7] = 1
    truths = Truths(neurons=16, tops=1)
    totals, sizes = [], []
    for number in range(400):
        case = a_case(f"p{number}", activations, {("nam", "mask"): scores})
        weight = truths.sample(case, {}, seed=0)
        assert weight[0, 7] == 1
        assert (weight[1, 20:] == 1).all()
        assert weight.sum() == pytest.approx(80)
        totals.append((weight * effects).sum())
        sizes.append(int((weight > 0).sum()))
    assert set(sizes) == {20 + 16}  # the silent ones cost nothing
    error = np.std(totals) / np.sqrt(len(totals))
    assert abs(np.mean(totals) - effects.sum()) < 4 * error
    assert error > 0


def test_a_sample_is_the_same_for_a_prompt_and_seed() -> None:
    activations = torch.ones(2, 1, 30)
    truths, nothing = Truths(neurons=10, tops=0), {}
    one, same, other = (
        truths.sample(a_case(name, activations, nothing), nothing, seed=seed)
        for name, seed in (("a", 1), ("a", 1), ("a", 2))
    )
    assert (one == same).all()
    assert (one != other).any()


def test_a_truth_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="levels for a proxy, or neurons"):
        Truths(levels=(), neurons=0)
    with pytest.raises(ConfigError, match=r"evaluate\.truths\.batch must be at least 1, got 0"):
        Truths(batch=0)


def test_methods_are_told_to_use_their_regions() -> None:
    methods = {"act": Act(), "acu": AcU(region=False)}
    assert cast("AcU", with_region(methods)["acu"]).region
    assert not cast("AcU", with_region(with_region(methods), region=False)["acu"]).region
    assert with_region(methods)["act"] == Act()


def test_masks_are_changed_as_named() -> None:
    region = np.zeros((20, 20), bool)
    region[5:12, 5:8] = region[9:12, 5:14] = True
    found = regions_of(region, pixels=1, true=~region)
    assert set(found) == {"eroded", "dilated", "shifted", "box", "truth"}
    assert (found["eroded"] <= region).all()
    assert found["eroded"].sum() < region.sum() < found["dilated"].sum()
    assert (region <= found["dilated"]).all()
    np.testing.assert_array_equal(found["shifted"][:, 1:], region[:, :-1])
    assert found["box"].sum() == 7 * 9
    assert "eroded" not in regions_of(region, pixels=5)  # nothing is left of it


def test_the_peak_counts_what_is_held_at_once() -> None:
    def run() -> None:
        first = torch.ones(1000, 1000)
        del first
        second = torch.ones(1000, 1000)
        third = second + 1
        del second, third

    assert peak_bytes(run, torch.device("cpu")) == pytest.approx(8_000_000, rel=1e-4)
