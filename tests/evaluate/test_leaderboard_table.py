"""From figures to rows: means, intervals, leads, and how they read."""

from __future__ import annotations

import math

import pytest

from nam.errors import InputError
from nam.evaluate.leaderboard.table import Figure, Row, frame_of, leads, markdown, pivot, summarise


def figures(
    method: str, values: dict[str, float], *, region: str = "-", modality: str = "text"
) -> list[Figure]:
    """One figure a prompt; the concept is the prompt's first letter."""
    return [Figure(p, p[0], method, modality, region, "spearman[logit]", v) for p, v in values.items()]


def test_a_row_is_the_mean_with_its_interval_and_note() -> None:
    found = figures("nam", {"a1": 0.2, "a2": 0.4, "b1": 0.9})
    found.append(Figure("b2", "b", "nam", "text", "-", "spearman[logit]", math.nan))
    (row,) = summarise(found, notes={"spearman": "of ranks"})
    assert (row.method, row.measure, row.n, row.note) == ("nam", "spearman[logit]", 3, "of ranks")
    assert row.value == pytest.approx(0.5)
    assert row.low == pytest.approx(0.3)  # both resampled concepts are a
    assert row.high == pytest.approx(0.9)  # both are b
    (one,) = summarise(figures("nam", {"a1": 0.2}))
    assert math.isnan(one.low)


def test_a_lead_pairs_prompts_and_regions() -> None:
    found = figures("best", {"a1": 0.9, "b1": 0.5}, region="mask", modality="image")
    found += figures("best", {"a1": 0.1}, region="ones", modality="image")
    found += figures("other", {"a1": 0.7, "b1": 0.3, "c1": -9.0}, region="mask", modality="image")
    found += figures("other", {"a1": 0.4}, region="ones", modality="image")
    found += figures("act", {"b1": 0.1}, modality="image")
    rows = leads(found, reference="best", measures=["spearman[logit]"])
    table = {(row.method, row.region): row for row in rows}
    assert set(table) == {("other", "mask"), ("other", "ones"), ("act", "-")}
    assert table["other", "mask"].value == pytest.approx(0.2)
    assert table["other", "mask"].low == pytest.approx(0.2)  # the difference is the same at each prompt
    assert table["other", "mask"].n == 2
    assert table["other", "ones"].value == pytest.approx(-0.3)
    assert table["act", "-"].value == pytest.approx(0.4)  # no region of its own: against the mask
    assert all(row.measure == "lead spearman[logit]" for row in rows)


def test_tables() -> None:
    rows = [
        Row("nam", "text", "-", "spearman[logit]", 0.25, 0.2, 0.3, 9),
        Row("a|b", "text", "-", "spearman[logit]", 0.75, math.nan, math.nan, 9),
        Row("nam", "text", "-", "time/forward", 123.4, 100.0, 150.0, 9),
        Row("nam", "image", "mask", "spearman[logit]", 1.0, 1.0, 1.0, 9),
    ]
    assert pivot(rows, modality="text", measures=["spearman[logit]", "time/forward"]) == [
        ("a|b", "-", ["0.75", ""]),
        ("nam", "-", ["0.25 [0.20, 0.30]", "123 [100, 150]"]),
    ]
    text = markdown(rows, modality="text", measures=["spearman[logit]"])
    assert text.splitlines()[2] == "| a\\|b | - | 0.75 |"
    columns = ["method", "modality", "region", "measure", "value", "low", "high", "n", "note"]
    assert list(frame_of(rows).columns) == columns
    with pytest.raises(InputError, match="no rows"):
        frame_of([])
