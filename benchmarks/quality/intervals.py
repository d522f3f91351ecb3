"""95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

#: 97.5 % quantile of the normal distribution.
Z = 1.959963984540054


def wilson(right: int, n: int) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927): bounds in 0..1.

    Raises:
        ValueError: not 0 <= right <= n, or n = 0.
    """
    if n < 1 or not 0 <= right <= n:
        raise ValueError(f"expected 0 <= right <= n and n > 0, got right={right}, n={n}")
    share = right / n
    centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    # At the ends the bound is exact, which floating point misses by a hair.
    return 0.0 if right == 0 else centre - half, 1.0 if right == n else centre + half


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and its normal-approximation interval; with one value the interval is that value.

    Raises:
        ValueError: no value.
    """
    if not values:
        raise ValueError("expected at least one value")
    mean = float(np.mean(values))
    half = Z * float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return mean, mean - half, mean + half


def mean_iou(hits: NDArray[np.int64], unions: NDArray[np.int64]) -> float:
    """Intersection over union of each class over all pictures, averaged over the classes that occur.

    hits, unions: pixels (pictures, classes).
    """
    total = unions.sum(0)
    return float((hits.sum(0)[total > 0] / total[total > 0]).mean())


def iou_interval(
    hits: NDArray[np.int64], unions: NDArray[np.int64], *, draws: int = 500, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of `mean_iou`, pictures drawn with replacement."""
    rng = np.random.default_rng(seed)
    count = len(hits)
    found = []
    for _ in range(draws):
        chosen = rng.integers(count, size=count)
        found.append(mean_iou(hits[chosen], unions[chosen]))
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)
