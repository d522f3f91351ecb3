"""Intervals against known values, rows against their targets, answers against what was asked."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from benchmarks.arguments import command_line
from benchmarks.quality.bench import Match, match
from benchmarks.quality.intervals import iou_interval, mean_interval, mean_iou, wilson
from benchmarks.quality.renders import CLASSES, overlaps
from benchmarks.quality.rows import Measure, Row, Section, Spec, rows_of
from nam.world.language import parse


@pytest.mark.parametrize(("right", "n"), [(0, 10), (10, 10), (1, 3), (285, 300), (50, 100), (1, 1)])
def test_wilson(right: int, n: int) -> None:
    expected = binomtest(right, n).proportion_ci(method="wilson")
    assert wilson(right, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_a_command_is_recorded_without_where_folders_are() -> None:
    given = ["--only", "a,b", "--out", "/home/me/found", "--weights=/data/gill", "--count=8"]
    assert command_line("gpu", given) == (
        "python -m benchmarks.gpu --only a,b --out found --weights=gill --count=8"
    )


def test_wilson_by_the_book() -> None:
    assert wilson(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    for right, n in ((1, 0), (-1, 5), (6, 5)):
        with pytest.raises(ValueError, match="expected 0 <= right <= n"):
            wilson(right, n)


def test_mean_interval() -> None:
    values = [1.0, 2.0, 4.0, 9.0]
    mean, low, high = mean_interval(values)
    expected = norm.interval(0.95, loc=4.0, scale=np.std(values, ddof=1) / 2)
    assert (mean, low, high) == pytest.approx((4.0, *expected))
    assert mean_interval([3.0]) == (3.0, 3.0, 3.0)


def test_mean_iou_by_hand() -> None:
    true, predicted = np.array([[0, 0], [13, 13]]), np.array([[0, 13], [13, 13]])
    hit, union = overlaps(predicted, true)
    assert (hit[0], union[0], hit[13], union[13]) == (1, 2, 2, 3)
    assert hit.sum() == 3
    assert len(hit) == CLASSES
    assert mean_iou(hit[None], union[None]) == pytest.approx((1 / 2 + 2 / 3) / 2)
    one, other = np.array([[4, 1]]), np.array([[4, 4]])
    low, high = iou_interval(np.concatenate([one, other]), np.full((2, 2), 4))
    assert low == pytest.approx((1 + 0.25) / 2)
    assert high == 1.0


def test_shares_pool_the_seeds() -> None:
    measure = Measure.share([[True, True, False], [True]])
    assert measure.value == 75
    assert measure.n == 4
    assert measure.seeds == (66.67, 100.0)
    assert (measure.low, measure.high) == pytest.approx([100 * bound for bound in wilson(3, 4)])


@pytest.mark.parametrize(
    ("value", "at_least", "verdict"), [(95.0, True, "pass"), (94.9, True, "miss"), (95.1, False, "miss")]
)
def test_a_row_is_held_to_its_target(value: float, at_least: bool, verdict: str) -> None:
    spec = Spec("k", "noun", 95, at_least=at_least)
    assert Row("s", spec, Measure(value)).verdict == verdict
    assert Row("s", Spec("k", "noun"), Measure(value)).verdict == ""


def test_what_was_not_measured_says_so() -> None:
    section = Section("s", "Title", (Spec("a", "A", 1), Spec("b", "B")), lambda bench: {})
    first, second = rows_of(section, {"a": Measure(1.0)}, reason="no weights")
    assert (first.verdict, first.reason) == ("pass", "")
    assert (second.verdict, second.reason) == ("not measured", "no weights")
    with pytest.raises(KeyError, match="c"):
        rows_of(section, {"c": Measure(1.0)})


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ("a blue car and a red horse on the grass", Match(True, True, True, True)),
        ("a blue horse and a red car on the grass", Match(True, True, False, True)),
        ("a red horse at night", Match(False, False, False, False)),
        ("a red horse , a blue car and a white dog on the grass", Match(False, False, False, True)),
        ("", Match(False, False, False, False)),
    ],
)
def test_extra_missing_and_swapped_things_are_wrong(found: str, expected: Match) -> None:
    assert match(parse("a red horse and a blue car on the grass"), parse(found)) == expected


def test_what_was_left_open_is_right() -> None:
    assert match(parse("a cat"), parse("a red cat at night")) == Match(True, True, True, True)
    assert match(parse("a cat"), parse("a red dog at night")) == Match(False, True, False, True)
