"""Tables of one's own: good rows, and bad ones that become items with a reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from nam.data.concepts import concept_of
from nam.data.folder import Folder
from nam.errors import ConfigError, InputError


def test_rows_become_items(tmp_path: Path) -> None:
    Image.new("RGB", (9, 7), "red").save(tmp_path / "red.png")
    (tmp_path / "table.csv").write_text(
        "id,prompt,image,concept,forms,modality,seed,caption,extra\n"
        'one,"draw a dog, please",,dog,hound|hounds,,5,a dog,x\n'
        ",a picture of,red.png,zebra,,text,,,\n"
    )
    source = Folder(table=str(tmp_path / "table.csv"), seed=100)
    assert len(source) == 2
    first, second = source[0], source[1]
    assert (first.sample.id, first.sample.prompt) == ("one", "draw a dog, please")
    assert first.sample.seed == 5
    assert first.sample.caption == "a dog"
    assert first.sample.concept.words == ("dog", "hound", "hounds")
    assert first.modalities == ("text", "image")
    assert (second.sample.id, second.sample.seed, second.modalities) == ("row-2", 101, ("text",))
    assert second.sample.concept == concept_of("zebra")
    assert isinstance(second.sample.image, Image.Image)
    assert second.sample.image.size == (9, 7)
    assert [first.error, second.error] == ["", ""]


def test_lines_of_json_become_items_too(tmp_path: Path) -> None:
    rows = [json.dumps({"id": 7, "prompt": "a cat", "concept": "cat", "forms": ["kitty"]}), "{", "[1]", ""]
    (tmp_path / "table.jsonl").write_text("\n".join(rows))
    source = Folder(table=str(tmp_path / "table.jsonl"))
    items = [source[index] for index in range(len(source))]
    assert [item.sample.id for item in items] == ["7", "row-2", "row-3"]
    assert items[0].sample.concept.words == ("cat", "kitty")
    assert "no JSON" in items[1].error
    assert "expected a JSON object, got list" in items[2].error


def test_pictures_come_from_the_table_s_folder_only(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    paths = ["../secret.png", str(tmp_path / "secret.png"), "link.png", "gone.png"]
    (folder / "t.csv").write_text("image,concept\n" + "".join(f"{path},cat\n" for path in paths))
    source = Folder(table=str(folder / "t.csv"))
    errors = [source[index].error for index in range(4)]
    assert all("leads out of the folder" in error for error in errors[:3])
    assert "cannot read the picture" in errors[3]


def test_a_url_is_no_picture_and_an_empty_cell_is_none(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        "prompt,image,concept\na,https://x.org/a.png,cat\na,file:///a.png,cat\na,,cat\na,  ,cat\n"
    )
    source = Folder(table=str(tmp_path / "t.csv"))
    for index, url in enumerate(["https://x.org/a.png", "file:///a.png"]):
        assert source[index].error.startswith(f"URLs are not read: download {url} first")
    for index in (2, 3):
        assert (source[index].error, source[index].sample.image) == ("", None)


def test_a_table_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    (tmp_path / "bytes.csv").write_bytes(b"id,prompt\n\xff\xfe,x\n")
    for name, words in [
        ("gone.csv", "no such file"),
        ("t.txt", "must be a .csv"),
        ("other.csv", "no column 'concept', but 'a', 'b'"),
        ("bytes.csv", "cannot read"),
    ]:
        with pytest.raises(ConfigError, match=words):
            Folder(table=str(tmp_path / name))


MISTYPED = [
    ("id,promt,concept\na,b,c\n", "unknown column 'promt': did you mean 'prompt'"),
    ("id, prompt,concept\na,b,c\n", "unknown column ' prompt': did you mean 'prompt'"),
    ("prompt,Concept\na,b\n", "unknown column 'Concept': did you mean 'concept'"),
    ("prompt,concept,seeds\na,b,1\n", "unknown column 'seeds': did you mean 'seed'"),
    ("id,prompt\na,b\n", "no column 'concept', but 'id', 'prompt'"),
    ("id,concept\na,b\n", "no column 'prompt' or 'image', but 'concept', 'id'"),
]


@pytest.mark.parametrize(("text", "words"), MISTYPED, ids=[words for _, words in MISTYPED])
def test_a_mistyped_column_is_refused_and_the_right_one_named(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ConfigError, match=words):
        Folder(table=str(tmp_path / "t.csv"))


def test_a_key_that_one_row_mistypes_is_refused(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "concept": "cat"}, {"promt": "b", "concept": "cat"}]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ConfigError, match="unknown column 'promt': did you mean 'prompt'"):
        Folder(table=str(tmp_path / "t.jsonl"))


def test_other_columns_are_passed_over_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "t.csv").write_text(",prompt,prompts,concept,image_id,split\n0,a,b,cat,7,test\n")
    item = Folder(table=str(tmp_path / "t.csv"))[0]
    assert (item.sample.prompt, item.sample.image, item.error) == ("a", None, "")
    (record,) = caplog.records
    assert record.getMessage().endswith("t.csv: these columns are passed over: image_id, prompts, split")


def test_known_columns_are_no_occasion_for_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "t.csv").write_text("prompt,concept\na,cat\n")
    assert len(Folder(table=str(tmp_path / "t.csv"))) == 1
    assert not caplog.records


def test_a_word_stands_for_its_forms() -> None:
    assert concept_of("cat").words[:2] == ("cat", "cats")
    assert concept_of("puppy dog").words == ("puppy dog", "puppy dogs")
    assert concept_of("berry").words == ("berry", "berries")
    assert concept_of("x", ("y", "x")).words == ("x", "y")
    with pytest.raises(InputError, match="concept is empty"):
        concept_of("  ")


@given(st.text(max_size=200), st.sampled_from([".csv", ".jsonl"]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_is_refused_or_gives_items(tmp_path: Path, text: str, ending: str) -> None:
    path = tmp_path / f"t{ending}"
    path.write_bytes(("id,prompt,image,concept\n" * (ending == ".csv") + text).encode("utf-8", "replace"))
    try:
        source = Folder(table=str(path))
    except ConfigError:
        return
    for index in range(len(source)):
        item = source[index]
        assert item.index == index
        assert item.error or item.sample.concept is not None
