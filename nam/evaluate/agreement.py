"""How far scores agree with the true effects of neurons, and how sure that figure is.

Where the truth is known on a sample only (see `sample_neurons`), every item takes a weight, 1 / the
probability that it came into the sample (Horvitz & Thompson 1952): it stands for that many neurons of the
model. Each figure is then what it would be for a model that holds each item as often as its weight says.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nam.errors import InputError

_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A figure with the interval in which 95 % (or another level) of its resamples lie."""

    value: float
    low: float
    high: float


def pearson(scores: ArrayLike, truth: ArrayLike, *, weights: ArrayLike | None = None) -> float:
    """The linear correlation of scores and truth; NaN where either is the same for all neurons.

    Args:
        scores, truth: Of N neurons, of any shape.
        weights: Of the same shape; None for 1 each.

    Raises:
        InputError: the shapes differ, there are fewer than two neurons, a value is not finite, or a weight is
            not positive.
    """
    x, y, w = _checked(scores, truth, weights)
    return _correlation(x, y, w)


def spearman(scores: ArrayLike, truth: ArrayLike, *, weights: ArrayLike | None = None) -> float:
    """The correlation of the ranks of scores and truth; equal values have the mean of their ranks.

    Arguments, errors and NaN as `pearson`.
    """
    x, y, w = _checked(scores, truth, weights)
    return _correlation(_ranks(x, w), _ranks(y, w), w)


def recall_at(scores: ArrayLike, truth: ArrayLike, k: int, *, weights: ArrayLike | None = None) -> float:
    """The share of the truth's top k neurons that is in the scores' top k (and so the precision at k too).

    Both are ranked with their sign, so the top of the truth are the neurons that the target would miss most:
    what each method ranks by, and the only reading that is fair to methods without a sign.

    Which of several equal values belong to a top is a matter of chance: the figure is its expectation, and
    does not depend on the order of the neurons.

    Args:
        scores, truth, weights: As `pearson`.
        k: Neurons in each top, of the model rather than of the sample.

    Raises:
        InputError: as `pearson`; k is below 1 or above the number of neurons (with weights, their sum).
    """
    x, y, w = _checked(scores, truth, weights)
    if not 1 <= k <= w.sum() * (1 + 1e-9):
        raise InputError(f"a top of k={k} must hold at least 1 and at most all {w.sum():g} neurons")
    return float((_in_top(x, w, k) * _in_top(y, w, k) * w).sum() / k)


def sample_neurons(
    certain: NDArray[np.bool_], drawn: int, *, rng: np.random.Generator
) -> tuple[NDArray[np.int64], _Floats]:
    """A sample of neurons to learn the truth of: some for certain, and some of the others by chance.

    Args:
        certain: (N,), those that must be in it, such as every method's top.
        drawn: How many of the others, each as likely; at most all of them.
        rng: Draws them.

    Returns:
        Their indices, ascending, and their weights: 1, or (others) / (drawn of them).

    Raises:
        InputError: `certain` is no flat mask; nobody is drawn while there are others.
    """
    if certain.dtype != np.bool_ or certain.ndim != 1:
        raise InputError(f"expected a mask of neurons (N,), got {certain.dtype} {certain.shape}")
    others = np.flatnonzero(~certain)
    drawn = min(drawn, len(others))
    if drawn < 1 and len(others):
        raise InputError(f"a sample says nothing of {len(others)} neurons of which {drawn} are drawn")
    chosen = rng.choice(others, drawn, replace=False)
    weights = certain.astype(np.float64)
    weights[chosen] = len(others) / max(drawn, 1)
    indices = np.flatnonzero(weights)
    return indices, weights[indices]


def bootstrap(
    values: ArrayLike,
    *,
    rng: np.random.Generator,
    groups: Sequence[Hashable] | None = None,
    draws: int = 2000,
    level: float = 0.95,
) -> Interval:
    """The mean over prompts, with its percentile interval under resampling (Efron 1979).

    Args:
        values: A figure of each prompt, (P,).
        rng: Draws the resamples.
        groups: What each prompt belongs to, such as its concept: whole groups are resampled, since prompts
            that have something in common say less than as many others. None resamples prompts.
        draws: Resamples.
        level: Share of them inside the interval.

    Returns:
        Bounds are NaN where there is one prompt, or one group, only.

    Raises:
        InputError: there is no prompt, a value is not finite, or `groups` has another length.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise InputError(f"expected a finite figure of each prompt to take the mean of, got {array}")
    if groups is not None and len(groups) != len(array):
        raise InputError(f"expected the group of each of {len(array)} prompts, got {len(groups)}")
    names = range(len(array)) if groups is None else groups
    number = {name: index for index, name in enumerate(dict.fromkeys(names))}
    member = np.array([number[name] for name in names])
    sums, sizes = np.bincount(member, array), np.bincount(member)
    value = float(array.mean())
    if len(number) < 2:
        return Interval(value, float("nan"), float("nan"))
    times = rng.multinomial(len(number), np.full(len(number), 1 / len(number)), size=draws)
    means = (times @ sums) / (times @ sizes)
    low, high = np.percentile(means, [50 * (1 - level), 50 * (1 + level)])
    return Interval(value, float(low), float(high))


def paired_bootstrap(
    a: ArrayLike,
    b: ArrayLike,
    *,
    rng: np.random.Generator,
    groups: Sequence[Hashable] | None = None,
    draws: int = 2000,
    level: float = 0.95,
) -> Interval:
    """The mean difference a - b of two methods over the same prompts: each resample holds both figures of a
    prompt, so what makes a prompt hard for both does not widen the interval.

    Arguments, errors and NaN as `bootstrap`; also an InputError where the prompts are not as many.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise InputError(f"expected two figures of each prompt, got {first.shape} and {second.shape}")
    return bootstrap(first - second, rng=rng, groups=groups, draws=draws, level=level)


def _checked(
    scores: ArrayLike, truth: ArrayLike, weights: ArrayLike | None
) -> tuple[_Floats, _Floats, _Floats]:
    x, y = np.asarray(scores, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    w = np.ones(y.shape) if weights is None else np.asarray(weights, dtype=np.float64)
    if not x.shape == y.shape == w.shape:
        raise InputError(f"scores, truth and weights differ in shape: {x.shape}, {y.shape}, {w.shape}")
    if x.size < 2:
        raise InputError(f"agreement needs at least two neurons, got {x.size}")
    for name, values in (("scores", x), ("truth", y), ("weights", w)):
        if not np.isfinite(values).all():
            raise InputError(f"{name} must be finite; {int((~np.isfinite(values)).sum())} of them are not")
    if not (w > 0).all():
        raise InputError("weights must be positive: 1 / the probability of being in the sample")
    return x.ravel(), y.ravel(), w.ravel()


def _correlation(x: _Floats, y: _Floats, w: _Floats) -> float:
    if x.min() == x.max() or y.min() == y.max():
        return float("nan")
    x, y = x - np.average(x, weights=w), y - np.average(y, weights=w)
    # Scaled first: effects of 1e-200 have squares of 0.
    x, y = x / np.abs(x).max(), y / np.abs(y).max()
    return float((w * x * y).sum() / np.sqrt((w * x * x).sum() * (w * y * y).sum()))


def _ranks(x: _Floats, w: _Floats) -> _Floats:
    """Ascending ranks from 1; equal values, and the neurons that one item stands for, share their mean."""
    _, place = np.unique(x, return_inverse=True)
    tied = np.bincount(place, w)
    return (np.cumsum(tied) - (tied - 1) / 2)[place]


def _in_top(x: _Floats, w: _Floats, k: int) -> _Floats:
    """The probability of each item to be among the k largest, where equal ones are in random order."""
    _, place = np.unique(-x, return_inverse=True)
    tied = np.bincount(place, w)
    before = np.cumsum(tied) - tied
    return np.clip((k - before) / tied, 0, 1)[place]
