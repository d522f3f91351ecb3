"""A paper's figures beside ours, and the layers of the top neurons."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from nam.errors import ConfigError
from nam.evaluate.leaderboard import Case, Row
from nam.evaluate.leaderboard.base import Bench, silent
from nam.evaluate.leaderboard.layers import Layers
from nam.evaluate.leaderboard.published import PaperRun, PublishedLead, PublishedTable, beside
from nam.types import Concept

NAN = float("nan")


def row(method: str, modality: str, measure: str, value: float, *, region: str = "-") -> Row:
    return Row(method, modality, region, measure, value, NAN, NAN, 3)


ROWS = [
    row("nam", "text", "clipscore[tiny,weight=1]|in", 0.5),
    row("nam", "image", "clipscore[tiny]|in", 0.25, region="mask"),
    row("nam", "image", "clipscore[tiny]|in", 0.75, region="whole"),
    row("nam", "image", "clipscore[tiny]|out", 0.125, region="mask"),
    row("relp", "image", "clipscore[tiny]|in", 0.375, region="mask"),
    row("act", "image", "norm[dog to cat]", 3.0),
    row("nam", "image", "norm[dog to cat]", 2.0),
    row("nam", "text", "invariance@50", 0.5),
    row("act", "text", "invariance@50", 0.25),
    row("acu", "text", "invariance@50", 0.0),
    row("nam", "image", "invariance@50", 0.25),
    row("act", "image", "invariance@50", 0.25),
]


def run(**settings: Any) -> PaperRun:
    return PaperRun(title="t", about="a", parts={"layers": Layers()}, **settings)


def test_our_figures_stand_beside_the_paper_s() -> None:
    table = PublishedTable(
        title="table 2",
        modality="image",
        columns={"CLIP in": "clipscore|in", "CLIP out": "clipscore|out", "X": None},
        values={"nam": [0.558, None, 0.1], "ce": [0.228, 0.2, 0.1]},
        note="read this",
    )
    (found,) = beside(run(tables=[table]), ROWS)
    assert found.head == ("CLIP in: paper", "ours", "CLIP out: paper", "ours", "X: paper", "ours")
    no = "\u2013"
    assert found.lines == (
        ("nam", "0.558", "0.25", no, "0.12", "0.100", no),
        ("ce", "0.228", no, "0.200", no, "0.100", no),
        ("relp", no, "0.38", no, no, no, no),  # a method that the paper has not
    )
    assert (found.title, found.note) == ("table 2", "read this")


def test_norms_are_compared_by_their_ratios() -> None:
    table = PublishedTable(
        title="table 3",
        modality="image",
        columns={"dog to cat": "norm[dog to cat]", "boy to girl": "norm[boy to girl]"},
        values={"act": [0.259, 0.390], "nam": [0.255, 0.350]},
        relative_to="nam",
    )
    (found,) = beside(run(tables=[table]), ROWS)
    assert found.lines[0] == ("act", "0.259 (1.02 x)", "3.00 (1.50 x)", "0.390 (1.11 x)", "\u2013")
    assert found.lines[1] == ("nam", "0.255 (1.00 x)", "2.00 (1.00 x)", "0.350 (1.00 x)", "\u2013")


def test_a_lead_is_over_the_mean_of_the_others_and_of_both_modalities() -> None:
    over = ("act", "acu", "ce")
    lead = PublishedLead(
        title="all ten",
        method="nam",
        over=over,
        modalities=("text", "image"),
        measure="invariance@50",
        value=0.1683,
    )
    (found,) = beside(run(leads=[lead]), ROWS)
    # text: 0.5 less the mean of 0.25 and 0; image: 0.25 less 0.25
    assert found.lines == (("all ten", "+16.83 points", "+18.75 points"),)
    (nothing,) = beside(run(leads=[lead]), [])
    assert nothing.lines[0][2] == "\u2013"


def test_findings_are_shown_with_our_measure() -> None:
    said = {"paper": "the same neurons", "measure": "invariance@50", "modality": "image"}
    (found,) = beside(run(findings=[said]), ROWS)
    assert found.lines == (("the same neurons", "invariance@50 (image): nam 0.25; act 0.25"),)


def test_tables_that_do_not_add_up_are_refused() -> None:
    table: dict[str, Any] = {"title": "t", "modality": "text", "columns": {"a": "x", "b": "y"}}
    with pytest.raises(ConfigError, match="'t' has 2 columns, and 1 figures of nam"):
        PublishedTable(**table, values={"nam": [1.0]})
    with pytest.raises(ConfigError, match="relative to act, which it has not"):
        PublishedTable(**table, values={"nam": [1.0, 2.0]}, relative_to="act")


def a_case(name: str, modality: str, tops: list[tuple[int, int]]) -> Case:
    """A case whose neurons score highest in this order, in a model of 3 layers of 4."""
    scores = np.zeros((3, 4), np.float32)
    for place, neuron in enumerate(tops):
        scores[neuron] = 9 - place
    work = SimpleNamespace(item=SimpleNamespace(sample=SimpleNamespace(id=name)), concept=Concept("cat"))
    return Case(cast(Any, work), cast(Any, modality), cast(Any, None), {("nam", "-"): scores})


def test_layers_are_counted_for_answers_that_say_and_draw() -> None:
    cases = [
        a_case("p1", "text", [(0, 0), (1, 1), (2, 2)]),
        a_case("p1", "image", [(2, 2), (1, 1), (2, 3)]),
        a_case("p2", "text", [(0, 1), (0, 2), (0, 3)]),  # nothing was drawn
    ]
    bench = SimpleNamespace(
        attributor=SimpleNamespace(methods={"nam": None}),
        mllm=SimpleNamespace(ffn_sites=(0, 1, 2)),
        of=lambda modality: [case for case in cases if case.modality == modality],
        tell=silent,
    )
    found = Layers(ks=(2, 3)).measure(cast(Bench, bench))
    values = {(one.modality, one.measure): one.value for one in found}
    assert {one.unit for one in found} == {"p1"}

    def counts(which: str, k: int) -> list[float]:
        return [values[which, f"layer@{k}[{layer}]"] for layer in range(3)]

    assert counts("text", 2) == [1, 1, 0]
    assert counts("image", 2) == [0, 1, 1]
    assert counts("both", 2) == [0, 1, 0]
    assert counts("either", 2) == [1, 1, 1]
    assert counts("both", 3) == [0, 1, 1]
    assert counts("either", 3) == [1, 1, 2]
    assert (values["text", "upper@2"], values["image", "upper@3"]) == (0.5, 1.0)
    assert (values["-", "shared@2"], values["-", "shared@3"]) == (0.5, pytest.approx(2 / 3))
    cases[0], cases[1] = a_case("7-describe", "text", [(0, 0)]), a_case("7-draw", "image", [(0, 0)])
    cases.append(a_case("8-draw", "image", [(1, 1)]))  # nothing was said of this picture
    together = Layers(ks=(1,)).measure(cast(Bench, bench))
    assert {one.unit for one in together} == {"7-describe"}
    assert [one.value for one in together if one.measure == "shared@1"] == [1.0]
    with pytest.raises(ConfigError, match=r"layers\.ks must be at least 1"):
        Layers(ks=(0,))
