"""The report of an edit: all that is to be seen, nothing fetched, and no text that becomes HTML."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nam.editor import Delta
from nam.report.edit_figures import curve_figure
from nam.report.edit_report import build_edit_report, changes, headline
from nam.report.edit_rows import MEASURES, rows_of
from nam.report.editing import heat_map
from nam.report.grid import LINES, SIDE, Column, _font, before_after, wrap
from nam.types import Neuron, NeuronSet
from tests.report.pages import ALLOWED, EVIL, Page

EDIT = {"source": "cat", "target": "dog", "modality": "image"}
FIGURES = {"drawn": 0.75, "said": 0.0, "words_kept": 1.0, "others_drawn": 0.5, "others_kl": 0.01}
TABLES: dict[str, Any] = {
    "before": {"cat": {"cat": 1.0}, "dog": {"dog": 1.0}},
    "after": {"cat": {"dog": 0.75, "nothing": 0.25}, "dog": {"dog": 1.0}},
}


def delta(**manifest: Any) -> Delta:
    original = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]])
    change = torch.tensor([[0.0, 1.0], [3.0, 4.0], [0.0, 0.0]])
    neurons = NeuronSet((Neuron(0, 5), Neuron(1, 2), Neuron(1, 3)))
    return Delta(
        neurons=neurons,
        original=original,
        edited=original + change,
        model="tiny",
        revision="abc",
        manifest={"editor": "rewrite", **manifest},
    )


def page(folder: Path, *, text: str = "a word", **options: Any) -> Page:
    picture = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    columns = [Column(text, picture, picture, text, text), Column(text, picture, None, text, "")]
    settings = {
        "run_dir": text,
        "overrides": [text, "mllm.folder=x"],
        "editor": {"_target_": "x", "tau": text, "steps": 9},
        "mllm": {"folder": text},
    }
    given: dict[str, Any] = {
        "delta": delta(prompts=[text] * 3, pairs=3, skipped={text: 2}, selection={"by": text}),
        "edit": EDIT,
        "settings": settings,
        "manifest": {"model": {"name": text, "revision": "abc"}, "machine": {"system": text}},
        "rows": rows_of(FIGURES, {"drawn": 0.0}, {"drawn": 4}, **EDIT),
        "groups": [(text, columns), ("rest", [])],
        "tables": TABLES,
        "curve": [{"step": s, "edit/image_left": 1 / s, "edit/loss": 2.0 / s} for s in (1.0, 2.0, 3.0)],
        "words": [([text], ["x"])] * 3,
        "total": 100,
        **options,
    }
    path = build_edit_report(folder, **given)
    return Page(path.read_text(encoding="utf-8"))


def test_everything_is_shown_and_nothing_is_fetched(tmp_path: Path) -> None:
    found = page(tmp_path)
    text = re.sub(r"\s+", " ", found.text)
    for expected in ("cat → dog, in pictures", "asked for a cat, draws a dog", "75%", "L1.U2", "no picture",
                     "layer 1: 2", "neurons changed, of 100", "patch.revert(mllm)", "L0.U5"):  # fmt: skip
        assert expected in text, expected
    assert text.index("L1.U2") < text.index("L0.U5")  # the neuron that changed most comes first
    sources = [attrs["src"] for tag, attrs in found.tags if tag == "img"]
    assert len(sources) == 3 + 2  # pictures, matrix, curve
    assert all(str(source).startswith("data:image/") for source in sources)
    assert found.count("script") == found.count("link") == 0
    assert "3 of at most 9 steps" in text
    assert "read from a file" in page(tmp_path, curve=[]).text
    assert (
        "drawing states: distance left 0.5"
        in page(tmp_path, curve=[{"step": 1.0, "edit/image_left": 0.5}]).text
    )


def test_nothing_from_data_enters_the_page_unescaped(tmp_path: Path) -> None:
    edit = {"source": EVIL, "target": f"{EVIL}!", "modality": "both"}
    rows = rows_of(FIGURES, {}, {}, **edit)
    found = page(tmp_path, text=EVIL, edit=edit, rows=rows)
    assert found.count("script") == 0
    assert not any(name.startswith("on") for _, attrs in found.tags for name in attrs)
    assert all(attrs["src"].startswith("data:image/") for tag, attrs in found.tags if tag == "img")
    assert found.text.count(EVIL) > 10
    assert {tag for tag, _ in found.tags} <= ALLOWED | {"pre"}


def test_rows_say_what_was_meant_and_what_leaked() -> None:
    rows = {row.name: row for row in rows_of(FIGURES, {"drawn": 0.25}, {"drawn": 8}, **EDIT)}
    assert (rows["drawn"].before, rows["drawn"].after, rows["drawn"].count) == ("25%", "75%", "8")
    assert rows["drawn"].aimed
    assert rows["said"].group == rows["words_kept"].group == "The cat in words: not meant to change"
    assert rows["others_kl"].after == "0.01"
    assert rows["others_kl"].share is None
    both = {row.name: row for row in rows_of(FIGURES, {}, {}, source="cat", target="dog", modality="both")}
    assert both["said"].aimed
    assert "words_kept" not in both
    assert len({measure.name for measure in MEASURES}) == len(MEASURES)
    assert headline(list(rows.values())) == [
        ("75%", "asked for a cat, draws a dog and no cat (before: 25%)"),
        ("50%", "of everything else is drawn as before"),
    ]


def test_changes_are_norms_and_shares_of_the_vectors_length() -> None:
    found = changes(delta(), [(["a", "b"], ["c"])] * 3)
    assert [(one.name, one.size) for one in found] == [
        ("L1.U2", "5.00 (500%)"), ("L0.U5", "1.00 (20%)"), ("L1.U3", "0.00 (0%)"),
    ]  # fmt: skip
    assert [one.bar for one in found] == [1.0, 0.2, 0.0]
    assert (found[0].before, found[0].after) == ("a · b", "c")


def test_the_page_tells_the_editor_that_made_the_change(tmp_path: Path) -> None:
    chosen = {"by": "random", "kind": "text", "layers": [0, 1], "contrast": True}
    made = {"settings": {"lr": 0.5}, "method": "relp", "overrides": ["edit.k=7"], "skipped": {"why not": 3}}
    here = {"editor": {"_target_": "x", "tau": 0.1, "steps": 9}, "edit": {"apply": "x"}}
    given: dict[str, Any] = {
        "settings": {**here, "run_dir": "x", "mllm": {}},
        "delta": delta(**made, selection=chosen),
    }
    text = re.sub(r"\s+", " ", page(tmp_path, curve=[], **given).text)
    for expected in (
        *("rewrite: lr 0.5", "made by the command line", "edit.k=7", "3 x why not", "layers [0, 1]"),
        *("chance, as many in each layer as relp has", "less the mean of all other concepts", "of kind text"),
    ):
        assert expected in text, expected
    assert "tau 0.1" not in text


GREY = Image.new("RGB", (8, 8), (120, 120, 120))


def test_no_caption_of_the_grid_is_cut_unseen() -> None:
    font = _font(12)
    text = "please make a picture with a white cat by the sea ."
    lines = wrap(text, font)
    assert " ".join(lines) == text
    assert max(font.getlength(line) for line in lines) <= SIDE
    long = wrap("word " * 100, font)
    assert len(long) == LINES
    assert long[-1].endswith("…")
    (whole,) = wrap("x" * 200, font)
    assert whole.endswith("x…")
    assert font.getlength(whole) <= SIDE


def test_words_that_changed_are_coloured_in_the_grid() -> None:
    def coloured(before: str, after: str) -> int:
        sheet = np.asarray(before_after([("title", [Column("asked", GREY, GREY, before, after)])]), int)
        return int((np.abs(sheet - (190, 24, 93)).sum(2) < 30).sum())

    assert coloured("a cat", "a cat") == 0
    assert coloured("a cat", "a dog") > 20


def test_the_grid_leaves_out_what_is_empty_and_frames_what_was_not_drawn() -> None:
    one, none = Column("asked", GREY, GREY), Column("asked", GREY, None)
    sheet = before_after([("title", [one] * 9), ("empty", [])])
    assert sheet.height < before_after([("title", [one] * 9), ("rest", [one])]).height
    assert sheet.width == before_after([("title", [one] * 6)]).width
    grey = [(np.asarray(before_after([("title", [each])])) == 120).all(2).sum() for each in (one, none)]
    assert grey == [2 * SIDE * SIDE, SIDE * SIDE]


def test_figures() -> None:
    assert curve_figure([{"step": 1.0}]) is None
    steps = [{"step": float(s), "edit/image_left": 0.5, "edit/loss": 1.0} for s in (1, 2)]
    assert str(curve_figure(steps)).startswith("data:image/svg+xml;base64,")
    same, other = (np.asarray(heat_map(TABLES["before"], TABLES[name]), int) for name in ("before", "after"))
    pink = [np.abs(picture - (219, 39, 119)).sum(axis=2) < 60 for picture in (same, other)]
    assert pink[0].sum() == 0
    assert pink[1].sum() > 50  # what changed is framed


@pytest.mark.parametrize("modality", ["text", "image", "both"])
def test_every_modality_has_a_page(tmp_path: Path, modality: str) -> None:
    edit = {**EDIT, "modality": modality}
    assert "cat → dog" in page(tmp_path, edit=edit, rows=rows_of(FIGURES, {}, {}, **edit)).text
