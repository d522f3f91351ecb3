"""Nothing from data gets into a report's HTML, and what cannot be read or written is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nam.report import build_report
from nam.store import Run, StoreError
from nam.types import Concept, Neuron
from tests.report.pages import ALLOWED, EVIL, page_of, run_of
from tests.store.results import result


def test_nothing_from_data_enters_the_page_unescaped(tmp_path: Path) -> None:
    def evil_words(neurons: Sequence[Neuron]) -> list[tuple[str, ...]]:
        return [(EVIL,) for _ in neurons]

    concept = Concept(EVIL, ("alert", EVIL))
    made = result(0)
    scores = tuple(replace(one, concept=concept, method=f"nam{EVIL}".replace("|", "")) for one in made.scores)
    bad = replace(made, id=EVIL, prompt=EVIL, text=f"so {EVIL}", concept=concept, scores=scores)
    worse = replace(bad, index=1, scores=(), errors=(("image", EVIL),))
    run = run_of(tmp_path, [bad, worse], words=evil_words, model={"name": EVIL, "layers": EVIL, "units": 1})
    page = page_of(run)
    assert page.count("script") == 0
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert all(
        attrs["src"].startswith("data:image/") for tag, attrs in page.tags if tag == "img" and attrs["src"]
    )
    assert page.text.count(EVIL) > 10
    assert {tag for tag, _ in page.tags} <= ALLOWED


@settings(max_examples=12, deadline=None)
@given(texts=st.lists(st.text(max_size=30), min_size=5, max_size=5))
def test_any_text_is_only_text(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    name, form, prompt, answer, reason = texts
    concept = Concept(name, (form,))
    made = result(0)
    scores = tuple(replace(one, concept=concept) for one in made.scores[:1])
    some = replace(made, id=prompt, concept=concept, prompt=prompt, text=answer, scores=scores)
    run = run_of(
        tmp_path_factory.mktemp("run"),
        [some, replace(some, index=1, scores=(), errors=(("", reason or "?"),))],
    )
    page = page_of(run, top=2)
    assert {tag for tag, _ in page.tags} <= ALLOWED


def test_pictures_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    run = run_of(tmp_path, [result(0), result(3)])
    (tmp_path / run.samples["picture"][0]).write_bytes(b"no picture")
    (tmp_path / run.samples["mask"][1]).unlink()
    page = page_of(run)
    captions = [attrs["alt"] for tag, attrs in page.tags if tag == "img"]
    assert captions.count("picture drawn") == 1
    assert not any("region" in str(caption) for caption in captions)


def test_a_path_out_of_the_folder_is_not_read(tmp_path: Path) -> None:
    import pandas as pd

    Image.new("RGB", (8, 8), "red").save(tmp_path / "secret.png")
    run = run_of(tmp_path / "run", [result(0)])
    samples = pd.read_parquet(run.folder / "samples.parquet")
    samples["picture"] = "../secret.png"
    samples.to_parquet(run.folder / "samples.parquet")
    page = page_of(Run(run.folder))
    assert not any(attrs["alt"] == "picture drawn" for tag, attrs in page.tags if tag == "img")


def test_full_disk_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(tmp_path, [result(0)])

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(StoreError, match=r"the disk is full: cannot write .*report\.html"):
        build_report(run)
    assert not (tmp_path / "report.html").exists()
