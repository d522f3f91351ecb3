"""Agreement figures against scipy, plain counting and what can be worked out by hand."""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from nam.errors import InputError
from nam.evaluate.agreement import (
    bootstrap,
    paired_bootstrap,
    pearson,
    recall_at,
    sample_neurons,
    spearman,
)

#: Small numbers of few values, so that ties are common.
ROWS = st.lists(
    st.tuples(st.integers(-3, 3), st.integers(-3, 3), st.integers(1, 4)), min_size=3, max_size=12
).filter(lambda rows: len({row[0] for row in rows}) > 1 and len({row[1] for row in rows}) > 1)


def columns(
    rows: list[tuple[int, int, int]],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    x, y, w = (np.array(column) for column in zip(*rows, strict=True))
    return x.astype(float), y.astype(float), w


@given(ROWS)
def test_correlations_are_those_of_scipy(rows: list[tuple[int, int, int]]) -> None:
    x, y, w = columns(rows)
    assert pearson(x, y) == pytest.approx(scipy.stats.pearsonr(x, y)[0], abs=1e-12)
    assert spearman(x, y) == pytest.approx(scipy.stats.spearmanr(x, y)[0], abs=1e-12)
    many_x, many_y = np.repeat(x, w), np.repeat(y, w)
    assert pearson(x, y, weights=w) == pytest.approx(scipy.stats.pearsonr(many_x, many_y)[0], abs=1e-12)
    assert spearman(x, y, weights=w) == pytest.approx(scipy.stats.spearmanr(many_x, many_y)[0], abs=1e-12)


def test_correlations_hold_for_any_shape_and_scale() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((6, 50))
    y = x + rng.standard_normal((6, 50))
    expected = scipy.stats.pearsonr(x.ravel(), y.ravel())[0]
    for scale in (1e-200, 1.0, 1e150):
        assert pearson(torch.from_numpy(x), y * scale) == pytest.approx(expected, abs=1e-12)
    assert np.isnan(pearson(np.zeros(5), np.arange(5.0)))
    assert np.isnan(spearman(np.arange(5.0), np.full(5, 0.1)))


def by_lot(scores: NDArray[np.float64], truth: NDArray[np.float64], k: int) -> float:
    """Recall with equal values in every possible order, each as likely as the others."""

    def tops(values: NDArray[np.float64]) -> list[set[int]]:
        orders = itertools.permutations(range(len(values)))
        return [set(o[:k]) for o in orders if all(values[a] >= values[b] for a, b in itertools.pairwise(o))]

    found = [len(a & b) / k for a in tops(scores) for b in tops(truth)]
    return sum(found) / len(found)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_recall_is_its_expectation_over_equal_values(k: int) -> None:
    rng = np.random.default_rng(k)
    for _ in range(8):
        scores, truth = rng.integers(0, 3, 5).astype(float), rng.integers(0, 3, 5).astype(float)
        assert recall_at(scores, truth, k) == pytest.approx(by_lot(scores, truth, k))


def test_recall_goes_by_the_sign() -> None:
    truth = np.array([-9.0, 3.0, 2.0, -1.0])
    scores = np.array([-5.0, 1.0, 0.0, 0.5])
    # The truth's top 2: {1, 2} as it stands, {0, 1} by size. The scores': {1, 3}, {0, 1}.
    assert recall_at(scores, truth, 2) == 1 / 2


@given(ROWS, st.integers(1, 3))
def test_a_weight_stands_for_as_many_neurons(rows: list[tuple[int, int, int]], k: int) -> None:
    x, y, w = columns(rows)
    many = recall_at(np.repeat(x, w), np.repeat(y, w), k)
    assert recall_at(x, y, k, weights=w) == pytest.approx(many)


def test_a_weighted_sample_says_what_the_whole_would() -> None:
    rng = np.random.default_rng(0)
    truth = rng.standard_normal(2000) ** 3
    scores = truth + 2 * rng.standard_normal(2000)
    certain = np.zeros(2000, dtype=bool)
    certain[np.argsort(-scores)[:50]] = True
    found, blind = [], []
    for _ in range(100):
        index, weights = sample_neurons(certain, 150, rng=rng)
        assert len(set(index.tolist())) == len(index) == 200
        assert set(np.flatnonzero(certain)) <= set(index.tolist())
        assert weights.sum() == pytest.approx(2000)
        measures = (pearson, spearman, partial(recall_at, k=50))
        found.append([measure(scores[index], truth[index], weights=weights) for measure in measures])
        blind.append([measure(scores[index], truth[index]) for measure in measures])
    whole = np.array([pearson(scores, truth), spearman(scores, truth), recall_at(scores, truth, 50)])
    error = np.abs(np.mean(found, axis=0) - whole)
    assert (error < [0.02, 0.02, 0.05]).all()
    assert (error < np.abs(np.mean(blind, axis=0) - whole) / 2).all()


def test_a_sample_of_all_neurons_needs_no_weights() -> None:
    index, weights = sample_neurons(np.array([True, False, False]), 99, rng=np.random.default_rng(0))
    assert index.tolist() == [0, 1, 2]
    assert weights.tolist() == [1, 1, 1]
    index, weights = sample_neurons(np.ones(3, dtype=bool), 0, rng=np.random.default_rng(0))
    assert index.tolist() == [0, 1, 2]


def test_the_interval_is_that_of_all_resamples() -> None:
    # Two prompts: their mean is 0, 1/2 or 1 in 1/4, 1/2 and 1/4 of all resamples.
    whole = bootstrap([0.0, 1.0], rng=np.random.default_rng(0))
    half = bootstrap([0.0, 1.0], rng=np.random.default_rng(0), level=0.4)
    assert (whole.value, whole.low, whole.high) == (0.5, 0.0, 1.0)
    assert (half.value, half.low, half.high) == (0.5, 0.5, 0.5)


def test_the_interval_is_that_of_scipy() -> None:
    values = np.random.default_rng(1).exponential(size=40)
    found = bootstrap(values, rng=np.random.default_rng(0), draws=20_000)
    expected = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    width = expected.high - expected.low
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(expected.low, abs=0.03 * width)
    assert found.high == pytest.approx(expected.high, abs=0.03 * width)
    assert found == bootstrap(values, rng=np.random.default_rng(0), draws=20_000)


def test_groups_are_resampled_whole() -> None:
    # Five prompts of a group that say the same say no more than one.
    alike = bootstrap(
        np.repeat([0.1, 0.4, 0.2], 5), rng=np.random.default_rng(0), groups=list("aaaaabbbbbccccc")
    )
    once = bootstrap([0.1, 0.4, 0.2], rng=np.random.default_rng(0))
    assert (alike.low, alike.high) == pytest.approx((once.low, once.high))
    # In a quarter of all resamples one group of the two is drawn twice, and the mean is that of its prompts.
    uneven = bootstrap([0.0, 0.0, 0.0, 1.0], rng=np.random.default_rng(0), groups=["a", "a", "a", "b"])
    assert (uneven.value, uneven.low, uneven.high) == (0.25, 0.0, 1.0)
    only = bootstrap([0.5, 0.7], rng=np.random.default_rng(0), groups=["a", "a"])
    assert only.value == pytest.approx(0.6)
    assert np.isnan([only.low, only.high]).all()


def test_a_difference_is_taken_prompt_by_prompt() -> None:
    rng = np.random.default_rng(3)
    hard = rng.standard_normal(30)
    a, b = hard + 0.2 + 0.05 * rng.standard_normal(30), hard
    paired = paired_bootstrap(a, b, rng=np.random.default_rng(0))
    assert paired.value == pytest.approx(a.mean() - b.mean())
    assert 0.15 < paired.low < paired.high < 0.25
    alone = bootstrap(a, rng=np.random.default_rng(0))
    assert alone.high - alone.low > 5 * (paired.high - paired.low)
    turned = paired_bootstrap(b, a, rng=np.random.default_rng(0))
    assert (turned.low, turned.high) == pytest.approx((-paired.high, -paired.low), abs=0.01)


@pytest.mark.parametrize(
    ("scores", "truth", "weights", "said"),
    [
        ([1.0, 2.0], [1.0, 2.0, 3.0], None, "differ in shape"),
        ([1.0, 2.0], [1.0, 2.0], [1.0], "differ in shape"),
        ([1.0], [1.0], None, "at least two neurons"),
        ([1.0, float("nan")], [1.0, 2.0], None, "scores must be finite"),
        ([1.0, 2.0], [1.0, float("inf")], None, "truth must be finite"),
        ([1.0, 2.0], [1.0, 2.0], [1.0, 0.0], "must be positive"),
    ],
)
def test_other_scores_are_refused(
    scores: list[float], truth: list[float], weights: list[float] | None, said: str
) -> None:
    for measure in (pearson, spearman):
        with pytest.raises(InputError, match=said):
            measure(scores, truth, weights=weights)
    with pytest.raises(InputError, match=said):
        recall_at(scores, truth, 1, weights=weights)


def test_other_questions_are_refused() -> None:
    rng = np.random.default_rng(0)
    for k in (0, 4):
        with pytest.raises(InputError, match=f"k={k}"):
            recall_at([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], k)
    with pytest.raises(InputError, match="finite figure of each prompt"):
        bootstrap([], rng=rng)
    with pytest.raises(InputError, match="finite figure of each prompt"):
        bootstrap([0.1, float("nan")], rng=rng)
    with pytest.raises(InputError, match="group of each of 2"):
        bootstrap([0.1, 0.2], rng=rng, groups=["a"])
    with pytest.raises(InputError, match="two figures of each prompt"):
        paired_bootstrap([0.1, 0.2], [0.1], rng=rng)
    with pytest.raises(InputError, match="says nothing of 2"):
        sample_neurons(np.array([True, False, False]), 0, rng=rng)
    with pytest.raises(InputError, match="mask of neurons"):
        sample_neurons(np.array([0, 1]), 1, rng=rng)
