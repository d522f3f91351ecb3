"""The report of made-up runs: complete, offline, and in the words of who reads it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from markupsafe import Markup
from rich.console import Console

from nam.app.closing import print_closing
from nam.report import build_report
from nam.report.figures import layer_counts
from nam.report.html import error_views
from nam.report.leads import leads_of
from nam.report.tops import NOT_KEPT, own_words, top_neurons
from nam.report.views import ConceptView, NeuronView, concept_view
from nam.store import Run
from nam.types import Concept, Neuron
from tests.report.pages import page_of, run_of
from tests.store.results import result


def test_everything_is_shown_and_nothing_is_fetched(tmp_path: Path) -> None:
    page = page_of(run_of(tmp_path, [result(index, empty_mask=index == 5) for index in range(6)]))
    for expected in ("horse", "car", "fish", "image: no fish in the picture", "made up", "draw a fish."):
        assert expected in page.text
    best = result(0).scores[0].scores.flatten() + result(3).scores[0].scores.flatten()
    assert str(Neuron(*divmod(int(best.argmax()), 40))) in page.text
    sources = [value for _, attrs in page.tags for name, value in attrs.items() if name in ("src", "href")]
    assert sources
    assert all(str(source).startswith(("data:image/", "#concept-")) for source in sources)
    figures = [source for source in sources if str(source).startswith("data:image/svg")]
    assert len(figures) == 3
    assert page.count("script") == page.count("link") == 0
    heat = [attrs["title"] for _, attrs in page.tags if str(attrs.get("title")).startswith("[IMG")]
    assert len(heat) == 8 * 5  # five samples have a region
    assert page.count("details") == 6


def run_of_leaders(folder: Path, led: Sequence[Sequence[int]]) -> Run:
    """A run of nam: the first concept's I-neurons are those units of layer 0, best first; and so on."""
    results = []
    for index, units in enumerate(led):
        concept, made = Concept(f"thing{index}"), result(index)
        image = torch.full((3, 40), -9.0)
        image[0, list(units)] = -torch.arange(1.0, 1 + len(units))
        scores = tuple(replace(one, concept=concept, scores=image) for one in made.scores[1:])
        results.append(replace(made, concept=concept, scores=scores, asked=("image",)))
    return run_of(folder, results)


def test_neurons_that_lead_many_concepts_are_marked(tmp_path: Path) -> None:
    run = run_of_leaders(tmp_path, [(7, 1), (7, 2), (3, 7), (4, 2), (5, 2), (6, 2)])
    page = page_of(run, top=2)
    cells = re.findall(r"(L0\.U\d+)\D*?horse, unit\d+\s+(\d) of 6", page.text)
    assert dict(cells) == {
        **{f"L0.U{unit}": "1" for unit in (1, 3, 4, 5, 6)}, "L0.U7": "3", "L0.U2": "4",
    }  # fmt: skip
    marked = [attrs.get("class") for _, attrs in page.tags].count("chip common")
    # The tables of concepts and of samples, the two rows at a glance that 7 leads, and the legend.
    assert marked == (3 + 4) + (2 + 0) + 2 + 1
    assert "reduction.nam.branch=direct" in page.text
    glance = page.text.split("At a glance")[1].split("Shared")[0]
    assert re.findall(r"L0\.U\d+", glance) == [f"L0.U{unit}" for unit in (7, 1, 7, 3, 4, 5, 6)]


def test_with_two_concepts_nothing_is_said_of_many(tmp_path: Path) -> None:
    page = page_of(run_of_leaders(tmp_path, [(7, 1), (7, 2)]), top=2)
    assert "eads" not in page.text
    assert not any(attrs.get("class") == "chip common" for _, attrs in page.tags)


def test_no_neuron_of_many_no_advice(tmp_path: Path) -> None:
    page = page_of(run_of_leaders(tmp_path, [(1, 2), (3, 4), (5, 6)]), top=2)
    assert "Leads counts the concepts" in page.text
    assert "branch=direct" not in page.text


def test_a_neuron_in_both_tables_of_a_concept_leads_it_once() -> None:
    row = NeuronView("L0.U1", Markup("a"), "1.00", 1.0)
    view = ConceptView("a", "nam", (row,), (row,), 1, 1, None, ())
    found = leads_of([view, replace(view, concept="b"), replace(view, concept="c", text=(), image=())])
    assert (found.counts["L0.U1"], found.concepts, found.any_common) == (2, 3, False)
    assert leads_of([view] * 3).common("L0.U1")


def test_punctuation_that_a_neuron_writes_is_quoted(tmp_path: Path) -> None:
    def dots(neurons: Sequence[Neuron]) -> list[tuple[str, ...]]:
        return [(",", "at", ".") for _ in neurons]

    page = page_of(run_of(tmp_path, [result(0)], words=dots))
    assert "“,”, at, “.”" in page.text


def test_facts_read_as_words(tmp_path: Path) -> None:
    page = page_of(
        run_of(tmp_path, [result(0)], methods=["nam", "acu"], seconds={"replay": 4.5e-05, "run": 50.7816})
    )
    assert "nam, acu" in page.text
    assert "replay < 0.001, run 50.78" in page.text


@pytest.mark.parametrize(
    ("stamp", "shown"),
    [
        ("2026-11-02T06:50:15+00:00", "started 2 November 2026, 06:50 UTC"),
        ("2026-11-02T06:50:15", "started 2 November 2026, 06:50"),
        ("yesterday", "started yesterday"),
        (5, "started 5"),
    ],
)
def test_the_start_is_shown_as_one_reads_it(tmp_path: Path, stamp: object, shown: str) -> None:
    head = page_of(run_of(tmp_path, [result(0)], started=stamp)).text.split("How to read this")[0]
    assert re.search(rf"{shown}\s", head)


def test_an_interrupted_run_and_an_empty_one(tmp_path: Path) -> None:
    page = page_of(run_of(tmp_path / "some", [result(0)], finish=False))
    assert "has not come to its end" in page.text
    assert "horse" in page.text
    assert "0samples" in re.sub(r"\s", "", page_of(run_of(tmp_path / "none", [])).text)


def test_only_some_samples_of_many_are_shown(tmp_path: Path) -> None:
    page = page_of(run_of(tmp_path, [replace(result(0), index=i, id=f"s{i}") for i in range(5)]), samples=2)
    assert page.count("details") == 2
    assert "the first 2 of 5" in page.text


def test_several_methods_stand_apart(tmp_path: Path) -> None:
    made = result(0)
    both = (*made.scores, *(replace(one, method="acu") for one in made.scores))
    page = page_of(run_of(tmp_path, [replace(made, scores=both)]))
    assert "Shown by the method acu" in page.text
    assert page.count("details") == 5  # two methods, a sample, and two methods within it


def closing(folder: Path) -> str:
    """What the run prints when it is done."""
    console = Console(file=StringIO(), width=200)
    print_closing(folder, top_neurons(Run(folder)), console=console)
    return console.file.getvalue()


def test_methods_come_in_the_order_that_was_asked_for(tmp_path: Path) -> None:
    made, asked = result(0), ["nam", "ig", "acu"]
    scores = tuple(replace(one, method=method) for method in asked for one in made.scores)
    run = run_of(tmp_path, [replace(made, scores=scores)], methods=asked)
    assert re.findall(r"top neurons by (\w+)", closing(tmp_path)) == asked
    page = page_of(run).text
    assert "Shown by the method nam" in page
    # A concept's, then a sample's.
    assert re.findall(r"method (\w+)", page.split("every method is below")[1])[:6] == asked * 2


def test_words_that_were_not_kept_are_said_to_be_missing(tmp_path: Path) -> None:
    run = run_of(tmp_path, [result(0)], top=1)
    tops = top_neurons(run, top=3)
    # Only the best neuron of each modality has a row, and its words.
    assert list(tops["words"] == NOT_KEPT) == [False, True, True] * 2
    best = tops[tops["rank"] == 1]
    assert own_words(run, tops) == own_words(run, best) == {"nam/text": 1.0, "nam/image": 1.0}
    assert own_words(run, tops[tops["rank"] > 1]) == {}
    assert closing(tmp_path).count("words not kept: raise top") == 4
    assert page_of(run, top=3).text.count("words not kept: raise top") == 4


def test_reasons_that_are_left_out_are_counted(tmp_path: Path) -> None:
    bad = [
        replace(result(0), index=i, id=f"s{i}", scores=(), errors=(("", f"reason {i}"),)) for i in range(11)
    ]
    run_of(tmp_path / "many", bad)
    printed = closing(tmp_path / "many")
    assert printed.count("1 x reason") == 8
    assert "and 3 more reasons, all in the report" in printed
    run_of(tmp_path / "few", bad[:8])
    assert "more reasons" not in closing(tmp_path / "few")


def test_reasons_come_by_their_number_then_as_they_appeared(tmp_path: Path) -> None:
    reasons = ["a", *"b" * 3, "c", *"d" * 8, *"b" * 2, "c"]
    bad = [
        replace(result(0), index=i, id=f"s{i}", scores=(), errors=(("", reason),))
        for i, reason in enumerate(reasons)
    ]
    run = run_of(tmp_path, [*bad, replace(result(0), index=len(bad), id="good")])
    found = [(view.reason, view.count, view.ids) for view in error_views(run)]
    assert found == [
        ("d", 8, ("s5", "s6", "s7", "s8", "s9", "s10")),
        ("b", 5, ("s1", "s2", "s3", "s13", "s14")),
        ("c", 2, ("s4", "s15")),
        ("a", 1, ("s0",)),
    ]


def test_words_are_read_once_however_many_concepts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [result(index) for index in range(3)]
    both = [
        replace(one, scores=(*one.scores, *(replace(s, method="acu") for s in one.scores))) for one in made
    ]
    run = run_of(tmp_path, both, top=1)
    asked: list[int] = []
    words_of = Run.words

    def count(run: Run, neurons: Any) -> dict[tuple[int, int], str]:
        asked.append(1)
        return words_of(run, neurons)

    monkeypatch.setattr(Run, "words", count)
    page = build_report(run, top=3).read_text(encoding="utf-8")
    assert len(asked) == 1
    tops = top_neurons(run, top=3)
    assert build_report(run, top=3, tops=tops).read_text(encoding="utf-8") == page
    print_closing(tmp_path, tops, console=Console(file=StringIO()))
    assert len(asked) == 2


def test_a_sample_without_concept_is_shown_and_no_concept_is_counted(tmp_path: Path) -> None:
    bare = replace(result(1), concept=None, prompt="", input=None, scores=(), errors=(("", "no fields"),))
    page = page_of(run_of(tmp_path, [result(0), bare]))
    assert re.findall(r"(\d+)\s*(samples|concepts)\b", page.text)[:2] == [("2", "samples"), ("1", "concepts")]
    assert "No concept" in page.text
    assert "(picture)" not in page.text


def test_of_equal_scores_the_more_active_neuron_comes_first_everywhere(tmp_path: Path) -> None:
    made = result(0)
    activations = torch.zeros(3, 40)
    activations[2, 39], activations[1, 5] = 2.0, 1.0
    even = [replace(one, scores=torch.zeros(3, 40), activations=activations) for one in made.scores]
    run = run_of(tmp_path, [replace(made, scores=tuple(even))])
    expected = [(2, 39), (1, 5), (0, 0)]
    places = ["layer", "unit"]
    neurons = run.neurons
    stored = neurons[(neurons["modality"] == "text") & (neurons["rank"] <= 3)]
    assert stored[places].to_numpy().tolist() == [list(place) for place in expected]
    tops = top_neurons(run, top=3)
    assert tops[tops["modality"] == "text"][places].to_numpy().tolist() == [list(place) for place in expected]
    view = concept_view(run, "horse", (), "nam", top=3, words={})
    assert [row.name for row in view.text] == [f"L{layer}.U{unit}" for layer, unit in expected]
    shown = re.findall(r"L(\d+)\.U(\d+)", closing(tmp_path))
    assert [(int(layer), int(unit)) for layer, unit in shown[::2]] == expected
    counts = layer_counts(run.scores("horse", "text", "nam"), run.scores("horse", "image", "nam"), top=2)
    assert counts["T and I"].tolist() == [0, 1, 1]
