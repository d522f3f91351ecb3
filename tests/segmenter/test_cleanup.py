"""Specks and holes, on masks small enough to see."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nam.segmenter.cleanup import clean


def mask_from(*rows: str) -> NDArray[np.bool_]:
    return np.array([[cell == "#" for cell in row] for row in rows])


def test_specks_go_and_small_holes_close() -> None:
    before = mask_from(
        "..........",
        ".#####....",
        ".#.###..#.",
        ".#####....",
        ".#####....",
        "........##",
    )
    after = mask_from(
        "..........",
        ".#####....",
        ".#####....",
        ".#####....",
        ".#####....",
        "..........",
    )
    np.testing.assert_array_equal(clean(before, speck=3 / 60), after)
    np.testing.assert_array_equal(clean(before, speck=0.0), before)


def test_parts_as_large_as_the_limit_stay() -> None:
    before = mask_from("######....", "#..###....", "######..##")
    np.testing.assert_array_equal(clean(before, speck=2 / 30), before)
    assert not clean(before, speck=2.01 / 30)[2, 9]
    assert clean(before, speck=2.01 / 30)[1, 1]


def test_parts_that_touch_by_a_corner_are_one() -> None:
    before = mask_from(".......", ".##....", ".##....", "...##..", "...##..", ".......")
    np.testing.assert_array_equal(clean(before, speck=5 / 42), before)
    before[1, 1:3] = False
    before[2, 1] = False
    assert not clean(before, speck=6 / 42).any()


def test_an_empty_mask_stays_empty_and_a_full_one_full() -> None:
    for value in (False, True):
        mask = np.full((8, 6), value)
        np.testing.assert_array_equal(clean(mask, speck=0.1), mask)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.0, 0.2))
def test_a_clean_mask_stays_as_it_is(seed: int, speck: float) -> None:
    mask = np.random.default_rng(seed).random((12, 9)) < 0.55
    once = clean(mask, speck=speck)
    assert once.shape == mask.shape
    assert once.dtype == np.bool_
    np.testing.assert_array_equal(clean(once, speck=speck), once)
