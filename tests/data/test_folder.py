"""Tables of one's own: good rows, and bad ones that become items with a reason."""

from __future__ import annotations

import json
from collections.abc import Callable
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
    assert errors[3] == f"cannot read the picture {folder.resolve() / 'gone.png'}: No such file or directory"


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
        ("bytes.csv", "line 2 is no text in UTF-8: save the table as UTF-8"),
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


def test_other_columns_are_passed_over_in_one_line(tmp_path: Path, told: Callable[[], list[str]]) -> None:
    (tmp_path / "t.csv").write_text(",prompt,prompts,concept,image_id,split\n0,a,b,cat,7,test\n")
    item = Folder(table=str(tmp_path / "t.csv"))[0]
    assert (item.sample.prompt, item.sample.image, item.error) == ("a", None, "")
    (line,) = told()
    assert line.endswith("t.csv: these columns are passed over: image_id, prompts, split")


def test_known_columns_are_no_occasion_for_a_word(tmp_path: Path, told: Callable[[], list[str]]) -> None:
    (tmp_path / "t.csv").write_text("prompt,concept\na,cat\n")
    assert len(Folder(table=str(tmp_path / "t.csv"))) == 1
    assert not told()


def test_a_limit_takes_rows_by_chance_and_leaves_them_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("prompt,concept\n" + "".join(f"draw {n},cat\n" for n in range(40)))
    table = str(tmp_path / "t.csv")
    whole = {item.sample.id: item.sample for item in map(Folder(table=table, seed=9).__getitem__, range(40))}
    chosen = set()
    for seed in range(6):
        source = Folder(table=table, limit=5, seed=seed)
        items = [source[index] for index in range(len(source))]
        assert [item.index for item in items] == list(range(5))
        names = [item.sample.id for item in items]
        assert names == sorted(names, key=lambda name: int(name[4:]))
        chosen.add(tuple(names))
        for item in items:
            before = whole[item.sample.id]
            assert (item.sample.prompt, item.sample.seed - seed) == (before.prompt, before.seed - 9)
    assert len(chosen) == 6
    assert len(Folder(table=table, limit=100)) == 40
    for limit in (0, -1):
        with pytest.raises(ConfigError, match=r"data\.source\.limit must be at least 1, or null for all"):
            Folder(table=table, limit=limit)


def test_an_id_that_comes_twice_is_told_also_where_its_first_row_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,prompt,concept\n" + "same,a,cat\n" * 30)
    source = Folder(table=str(tmp_path / "t.csv"), limit=4, seed=0)
    items = [source[index] for index in range(4)]
    again = [item for item in items if item.error == "the id 'same' stands in row 1 already"]
    assert len(again) >= 3
    assert {item.sample.concept.name for item in again if item.sample.concept} == {"cat"}


def test_lines_of_which_none_is_an_object_are_refused(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "concept": "cat"}]
    (tmp_path / "t.jsonl").write_text(json.dumps(rows, indent=1))  # JSON, but not line by line
    with pytest.raises(ConfigError, match="no row can be read; of the first, the line is no JSON"):
        Folder(table=str(tmp_path / "t.jsonl"))


def test_a_line_of_json_ends_at_its_end_alone(tmp_path: Path) -> None:
    """Characters at which str.splitlines ends a line may stand in a JSON string as they are."""
    prompt = "one\u2028two\u2029three\x85four"
    rows = [
        json.dumps({"prompt": prompt, "concept": "cat"}, ensure_ascii=False),
        '{"prompt": "b", "concept": "cat"}',
    ]
    for end in ("\n", "\r\n"):
        (tmp_path / "t.jsonl").write_bytes(end.join([*rows, ""]).encode())
        source = Folder(table=str(tmp_path / "t.jsonl"))
        assert [source[index].error for index in range(len(source))] == ["", ""]
        assert [source[index].sample.prompt for index in range(2)] == [prompt, "b"]


@pytest.mark.parametrize("name", ["id", "prompt", "image", "concept", "modality", "seed", "caption"])
@pytest.mark.parametrize("value", [["a"], {"a": 1}])
def test_a_list_is_no_word(name: str, value: object, tmp_path: Path) -> None:
    row = {"prompt": "a", "concept": "cat", name: value}
    (tmp_path / "t.jsonl").write_text(json.dumps(row))
    item = Folder(table=str(tmp_path / "t.jsonl"))[0]
    assert item.error.startswith(f"{name} must be a word or a number, got {type(value).__name__}")


def test_half_a_character_is_no_text(tmp_path: Path) -> None:
    """JSON can write one; no tokenizer reads it."""
    rows = ["a \ud83d cat", "\U0001f408"]
    (tmp_path / "t.jsonl").write_text(
        "\n".join(json.dumps({"prompt": one, "concept": "cat"}) for one in rows)
    )
    source = Folder(table=str(tmp_path / "t.jsonl"))
    assert source[0].error == "prompt holds half of a character (a lone surrogate), which is no text"
    assert (source[1].error, source[1].sample.prompt) == ("", "\U0001f408")


def test_whole_seeds_are_read_in_any_way_of_writing_them(tmp_path: Path) -> None:
    seeds = ["5", "5.0", "", "9007199254740993", "5.5", "nan", "x"]
    (tmp_path / "t.csv").write_text("prompt,concept,seed\n" + "".join(f"a,cat,{seed}\n" for seed in seeds))
    source = Folder(table=str(tmp_path / "t.csv"), seed=100)
    items = [source[index] for index in range(len(seeds))]
    assert [item.sample.seed for item in items[:4]] == [5, 5, 102, 9007199254740993]
    assert all("the seed must be a whole number" in item.error for item in items[4:])


def test_an_open_quote_and_a_column_that_comes_twice_are_refused(tmp_path: Path) -> None:
    """An open quote would swallow every row behind it."""
    for text, words in (
        (
            'prompt,concept\na,cat\n"b,cat\nc,cat\n',
            r"t\.csv: it is no CSV behind line 2: unexpected end of data",
        ),
        ('prompt,concept\n"a" x,cat\n', "it is no CSV behind line 1: ',' expected after '\"'"),
        ("prompt,concept,prompt\na,cat,b\n", "there are 2 columns 'prompt'"),
        ("prompt;concept\na;cat\n", "columns are separated by commas, not by ';'"),
        ("prompt\tconcept\na\tcat\n", r"columns are separated by commas, not by '\\t'"),
    ):
        (tmp_path / "t.csv").write_text(text)
        with pytest.raises(ConfigError, match=words):
            Folder(table=str(tmp_path / "t.csv"))


def test_excel_s_mark_in_front_of_the_first_column_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("\ufeffconcept,prompt\ncat,a\n".encode())
    assert Folder(table=str(tmp_path / "t.csv"))[0].sample.concept == concept_of("cat")


def test_the_table_of_the_documentation_is_read(tmp_path: Path, told: Callable[[], list[str]]) -> None:
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    lines = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    start = next(place for place, line in enumerate(lines) if line.startswith("id,prompt,"))
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "photos" / "cat.jpg")
    (tmp_path / "t.csv").write_text("\n".join(lines[start : start + 3]))
    source = Folder(table=str(tmp_path / "t.csv"))
    items = [source[index] for index in range(len(source))]
    assert [(item.sample.id, item.error) for item in items] == [("one", ""), ("two", "")]
    assert items[1].sample.concept.words == ("cat", "kitten", "kitty")
    assert not told()


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


def test_a_seed_below_zero_is_a_row_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("prompt,concept,seed\na,cat,-1\nb,cat,3\n")
    first, second = (Folder(table=str(tmp_path / "t.csv"))[place] for place in (0, 1))
    assert first.error == "the seed must be at least 0, got '-1'"
    assert (second.error, second.sample.seed) == ("", 3)
