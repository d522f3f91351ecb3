"""Measures on sets of neurons against counts by hand and by enumeration."""

from __future__ import annotations

from itertools import combinations, product

import pytest

from nam.errors import InputError
from nam.evaluate.distribution import layer_distribution
from nam.evaluate.invariance import (
    chance_invariance,
    cross_modal_invariance,
    cross_sample_invariance,
    overlap,
)
from nam.evaluate.rankings import top
from nam.evaluate.specificity import KAPPAS, specificity
from nam.types import Neuron


def units(*numbers: int) -> tuple[Neuron, ...]:
    """Neurons of layer 0."""
    return tuple(Neuron(0, number) for number in numbers)


def test_a_top_is_never_silently_shorter() -> None:
    assert top(units(3, 1, 2), 2) == {Neuron(0, 3), Neuron(0, 1)}
    with pytest.raises(InputError, match="holds 3 neurons, fewer than the top 4"):
        top(units(3, 1, 2), 4)
    with pytest.raises(InputError, match="k=0"):
        top(units(1), 0)


def test_layers_are_counted() -> None:
    text = (Neuron(0, 1), Neuron(2, 1), Neuron(2, 2), Neuron(1, 9))
    image = (Neuron(2, 2), Neuron(2, 3), Neuron(0, 1), Neuron(1, 8))
    found = layer_distribution(text, image, k=3, layers=4)
    assert found.text.tolist() == [1, 0, 2, 0]
    assert found.image.tolist() == [1, 0, 2, 0]
    assert found.both.tolist() == [1, 0, 1, 0]
    assert found.either.tolist() == [1, 0, 3, 0]
    with pytest.raises(InputError, match="layer 2, the model has layers 0 to 1"):
        layer_distribution(text, image, k=3, layers=2)


def test_cross_sample_invariance_by_hand() -> None:
    repeats = [units(1, 2, 3, 9), units(3, 1, 5, 2), units(4, 3, 1, 2)]
    assert cross_sample_invariance(repeats, k=3) == pytest.approx(2 / 3)
    assert cross_sample_invariance(repeats, k=1) == 0
    with pytest.raises(InputError, match="two repeats, got 1"):
        cross_sample_invariance(repeats[:1], k=3)


def test_chance_invariance_is_the_mean_over_all_tops() -> None:
    tops = [units(*some) for some in combinations(range(5), 2)]
    shares = [cross_sample_invariance(three, k=2) for three in product(tops, repeat=3)]
    assert chance_invariance(k=2, repeats=3, neurons=5) == pytest.approx(sum(shares) / len(shares))


@pytest.mark.parametrize("shared", range(4))
def test_overlap_by_chance_is_that_over_all_tops(shared: int) -> None:
    n, k = 8, 3
    ours = units(*range(k))
    theirs = [units(*some) for some in combinations(range(n), k)]
    counts = [len(set(ours) & set(some)) for some in theirs]
    found = overlap(ours, theirs[counts.index(shared)], k=k, neurons=n)
    assert (found.shared, found.share) == (shared, pytest.approx(shared / k))
    assert found.chance == pytest.approx(sum(counts) / len(counts) / k)
    assert found.p_value == pytest.approx(sum(count >= shared for count in counts) / len(counts))
    assert found.excess == pytest.approx((found.share - found.chance) / (1 - found.chance))
    with pytest.raises(InputError, match="smaller than the model"):
        overlap(ours, ours, k=3, neurons=3)


def test_cross_modal_invariance_compares_routes_that_differ_in_one_side() -> None:
    routes = {
        ("text", "text"): units(0, 1, 2, 3),
        ("image", "text"): units(0, 1, 2, 4),
        ("text", "image"): units(0, 1, 5, 6),
        ("image", "image"): units(7, 8, 5, 9),
    }
    found = cross_modal_invariance(routes, k=4, neurons=100)  # type: ignore[arg-type]
    assert {name: one.shared for name, one in found.items()} == {
        "in|text": 3, "in|image": 1, "out|text": 2, "out|image": 0,
    }  # fmt: skip
    part = {route: routes[route] for route in (("text", "text"), ("text", "image"))}
    assert set(cross_modal_invariance(part, k=4, neurons=100)) == {"out|text"}  # type: ignore[arg-type]
    both_differ = {route: routes[route] for route in (("text", "text"), ("image", "image"))}
    with pytest.raises(InputError, match="nothing to compare"):
        cross_modal_invariance(both_differ, k=4, neurons=100)  # type: ignore[arg-type]


def test_specificity_of_tops_by_hand() -> None:
    tops = {"cat": units(1, 2, 3, 7), "dog": units(3, 2, 4, 8), "sun": units(5, 2, 6, 9)}
    found = specificity(tops, k=3, kappas=(0.4, 0.5, 0.6, 1.0))
    # Neuron 1 is the cat's own, 3 one other concept's too, 2 both others'.
    assert found["cat"].only == 1
    assert found["cat"].below == {0.4: 1, 0.5: 1, 0.6: 2, 1.0: 2}
    assert found["sun"].only == 2
    assert found["sun"].k == 3


def test_specificity_counts_shares_of_samples() -> None:
    tops = {"cat": units(1, 2), "dog": units(3, 4), "sun": units(5, 6)}
    samples = {
        "cat": [units(1, 2)],
        "dog": [units(3, 1), units(3, 4), units(4, 3), units(3, 2)],
        "sun": [units(5, 2), units(6, 5)],
    }
    # For the cat: neuron 1 has (1/4 + 0) / 2 = 1/8, neuron 2 has (1/4 + 1/2) / 2 = 3/8.
    found = specificity(tops, samples, k=2)["cat"]
    assert found.only == 0
    assert list(found.below) == list(KAPPAS)
    assert list(found.below.values()) == [0, 1, 1, 1, 1, 1, 2, 2]


@pytest.mark.parametrize("samples", [None, {"cat": [units(1)], "dog": [units(2)]}, {"cat": []}])
def test_specificity_needs_other_concepts(samples) -> None:
    with pytest.raises(InputError, match="at least two concepts"):
        specificity({"cat": units(1)}, samples, k=1)
