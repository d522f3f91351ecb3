"""Data sets of the hub, by a stand-in for the package that reads them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nam.data.hub import HubDataset
from nam.errors import ConfigError

ROWS: list[dict[str, Any]] = [
    {"pic": Image.new("RGB", (8, 6), "red"), "texts": ["two dogs run", "x"], "word": "hound", "key": 7},
    {"pic": None, "texts": ["a cat"], "word": "cat", "key": 8},
    {"pic": Image.new("L", (5, 5)), "texts": ["nothing to see"], "word": "", "key": 9},
    {"pic": Image.new("RGB", (4, 4)), "texts": [], "word": "dog", "key": 10},
    {"pic": Image.new("RGB", (4, 4)), "texts": ["a unicorn"], "word": "dog", "key": None},
]

COLUMNS = {"image": "pic", "caption": "texts"}


class Rows:
    """What `datasets.load_dataset` gives, as far as it is used."""

    def __init__(self, rows: Sequence[dict[str, Any]], *, streaming: bool) -> None:
        self.rows, self.streaming, self.column_names = list(rows), streaming, list(ROWS[0])

    def __len__(self) -> int:
        if self.streaming:
            raise TypeError("a stream has no length")
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)

    def select(self, places: list[int]) -> Rows:
        return Rows([self.rows[place] for place in places], streaming=False)

    def shuffle(self, *, seed: int, buffer_size: int) -> Rows:
        order = np.random.default_rng(seed).permutation(len(self.rows))
        return Rows([self.rows[place] for place in order], streaming=True)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What was asked of the package."""
    asked: list[tuple[Any, ...]] = []

    def load_dataset(name: str, config: str | None, **settings: Any) -> Rows:
        asked.append((name, config, settings))
        if name == "no/such":
            raise FileNotFoundError("Dataset 'no/such' doesn't exist\non the Hub")
        return Rows(ROWS, streaming=settings["streaming"])

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return asked


def test_rows_become_items(calls: list[tuple[Any, ...]]) -> None:
    source = HubDataset(name="some/set", config="small", columns=COLUMNS, revision="abc")
    items = [source[index] for index in range(len(source))]
    assert calls == [("some/set", "small", {"split": "test", "revision": "abc", "streaming": False})]
    assert len(items) == 10
    describe, draw = items[:2]
    assert (describe.sample.id, draw.sample.id) == ("row-1-describe", "row-1-draw")
    assert describe.sample.concept.name == "dog"
    assert describe.sample.image.size == (8, 6)
    assert (describe.sample.prompt, draw.sample.prompt) == ("", "two dogs run")
    assert draw.sample.image is None
    assert [item.error[:14] for item in items[2::2]] == [
        *("the row has no", "the caption sa", "the row has no", "the caption sa"),
    ]
    assert items[3].error == ""  # to draw it, no picture is needed
    assert "says none of the things to look for: 'a unicorn'" in items[8].error
    again = HubDataset(name="some/set", columns=COLUMNS)
    assert again[1].sample.seed == draw.sample.seed != source[3].sample.seed


def test_columns_may_say_concept_and_id_and_concepts_may_be_one_s_own(calls: list[tuple[Any, ...]]) -> None:
    named = HubDataset(name="some/set", columns={**COLUMNS, "concept": "word", "id": "key"}, kinds=("draw",))
    assert [named[index].sample.id for index in range(2)] == ["7-draw", "8-draw"]
    assert named[0].sample.concept.words == ("hound", "hounds")
    assert named[4].sample.concept.name == "dog"
    assert "no concept" in named[2].error
    own = HubDataset(name="some/set", columns=COLUMNS, concepts=("unicorn",), kinds=("draw",))
    assert own[4].sample.concept.words == ("unicorn", "unicorns")
    assert "says none" in own[0].error


def test_a_stream_is_read_once_and_no_further_than_asked(calls: list[tuple[Any, ...]]) -> None:
    source = HubDataset(name="some/set", columns=COLUMNS, streaming=True, limit=2, kinds=("draw",), seed=1)
    first = [source[index].sample.caption for index in range(len(source))]
    assert len(first) == 2
    assert [source[index].sample.caption for index in range(2)] == first
    assert len(calls) == 1
    whole = HubDataset(name="some/set", columns=COLUMNS, limit=3, seed=2)
    assert len(whole) == 6
    others = {
        tuple(row["key"] for row in HubDataset(name="s/s", columns=COLUMNS, limit=3, seed=s).rows)
        for s in range(8)
    }
    assert len(others) > 3


def test_what_cannot_be_read_is_one_clear_line(calls: list[tuple[Any, ...]]) -> None:
    with pytest.raises(
        ConfigError, match=r"data\.source\.name=no/such, split=test: Dataset 'no/such' doesn't exist$"
    ):
        len(HubDataset(name="no/such"))
    with pytest.raises(ConfigError, match=r"columns\.image=image: no such column"):
        len(HubDataset(name="some/set"))
    for settings, message in (
        ({"streaming": True}, r"data\.source\.streaming=true needs data\.source\.limit"),
        ({"columns": {"image": "pic"}}, r"columns\.caption must name a column"),
        ({"columns": {**COLUMNS, "imag": "x"}}, r"columns\.imag is unknown \(did you mean 'image'\?\)"),
        ({"kinds": ("caption",)}, "unknown kind 'caption'"),
    ):
        with pytest.raises(ConfigError, match=message):
            HubDataset(name="some/set", **{"columns": COLUMNS, **settings})


def test_a_row_that_cannot_be_decoded_is_a_row_with_its_reason(
    calls: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package decodes pictures when a row is read, and raises what the decoder does."""

    def read(rows: Rows, index: int) -> dict[str, Any]:
        if index == 1:
            raise OSError("cannot identify image file\n  <_io.BytesIO>")
        return rows.rows[index]

    monkeypatch.setattr(Rows, "__getitem__", read)
    source = HubDataset(name="some/set", columns={**COLUMNS, "id": "key"}, kinds=("draw",))
    assert [source[0].error, source[1].error] == ["", "the row cannot be read: cannot identify image file"]
    assert (source[1].index, source[1].sample.id) == (1, "row-2-draw")
    monkeypatch.setattr(Rows, "__iter__", lambda rows: (read(rows, index) for index in range(len(rows.rows))))
    with pytest.raises(
        ConfigError, match=r"a row of the stream cannot be read \(cannot identify image file\)"
    ):
        len(HubDataset(name="some/set", columns=COLUMNS, streaming=True, limit=5))


def test_an_id_of_zero_is_an_id(calls: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ROWS[0], "key", 0)
    source = HubDataset(name="some/set", columns={**COLUMNS, "id": "key"}, kinds=("draw",))
    assert [source[index].sample.id for index in (0, 1, 4)] == ["0-draw", "8-draw", "row-5-draw"]


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"pip install 'nam-mllm\[hf\]'"):
        len(HubDataset(name="some/set"))
