"""COCO's annotations: masks of runs and polygons by hand, pictures that can be asked about, bad files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from nam.app.build import build
from nam.data.asking import Mentions, coco_concepts, subset
from nam.data.coco import Coco
from nam.data.coco_masks import decode, from_polygon, from_runs, read_letters
from nam.data.concepts import concept_of
from nam.data.items import Item
from nam.errors import ConfigError, InputError
from nam.folders import configs_folder
from nam.segmenter.truth import TruthSegmenter
from nam.types import Concept
from tests.data.tiny_coco import PICTURES, SIZE, true_mask, write_coco


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_coco(tmp_path_factory.mktemp("coco")))


def items(source: Coco) -> list[Item]:
    return [source[index] for index in range(len(source))]


def letters(lengths: list[int]) -> str:
    """COCO's own way of writing run lengths (cocoapi, rleToString), to be read back."""
    text = ""
    for place, length in enumerate(lengths):
        value = length - lengths[place - 2] if place > 2 else length
        more = True
        while more:
            code, value = value & 0x1F, value >> 5
            more = value != -1 if code & 0x10 else value != 0
            text += chr((code | 0x20 if more else code) + 48)
    return text


def test_runs_go_down_the_columns() -> None:
    expected = np.array([[0, 1, 1], [1, 0, 1]], dtype=bool)
    np.testing.assert_array_equal(from_runs([1, 2, 1, 2], height=2, width=3), expected)
    np.testing.assert_array_equal(decode({"counts": "1210"}, height=2, width=3), expected)


@pytest.mark.parametrize(
    ("text", "lengths"),
    # from the fourth on the difference from the last but one; 40 needs two letters, -2 is one
    [("2342", [2, 3, 4, 5]), ("X1", [40]), ("15X1N", [1, 5, 40, 3]), ("0", [0])],
)
def test_letters_are_read_as_worked_out_by_hand(text: str, lengths: list[int]) -> None:
    assert read_letters(text) == lengths
    assert read_letters(text.encode()) == lengths


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 100_000), max_size=12))
def test_letters_are_read_as_coco_writes_them(lengths: list[int]) -> None:
    assert read_letters(letters(lengths)) == lengths


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_mask_of_runs_is_the_mask_that_was_written(seed: int) -> None:
    mask = np.random.default_rng(seed).random((7, 5)) < 0.5
    column = mask.T.ravel()
    steps = np.flatnonzero(np.diff(column)) + 1
    lengths = np.diff([0, *steps, column.size]).tolist()
    runs = [0, *lengths] if column[0] else lengths
    np.testing.assert_array_equal(from_runs(runs, height=7, width=5), mask)
    np.testing.assert_array_equal(from_runs(letters(runs), height=7, width=5), mask)


def test_a_box_of_whole_pixels_is_itself() -> None:
    mask = from_polygon([4, 5, 12, 5, 12, 9, 4, 9], height=20, width=30)
    expected = np.zeros((20, 30), dtype=bool)
    expected[5:9, 4:12] = True
    np.testing.assert_array_equal(mask, expected)
    wide = from_polygon([-5, -5, 100, -5, 100, 100, -5, 100], height=20, width=30)
    assert wide.all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_polygon_holds_the_pixels_whose_centres_are_in_it(seed: int) -> None:
    corners = np.random.default_rng(seed).uniform(-10, 70, (5, 2))
    y, x = np.mgrid[:50, :60] + 0.5
    centres = np.column_stack((x.ravel(), y.ravel()))
    near = np.zeros(len(centres), dtype=bool)
    for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        way = end - start
        along = np.clip((centres - start) @ way / (way @ way), 0, 1)
        near |= np.linalg.norm(centres - start - along[:, None] * way, axis=1) < 0.75
    mask = from_polygon(corners.ravel().tolist(), height=50, width=60).ravel()
    inside = _crossings(centres, corners) % 2 == 1
    np.testing.assert_array_equal(mask[~near], inside[~near])
    assert (mask == inside).mean() > 0.97


def _crossings(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """How many edges a ray to the right of each point crosses."""
    count = np.zeros(len(points), dtype=int)
    for (x1, y1), (x2, y2) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        spans = (y1 > points[:, 1]) != (y2 > points[:, 1])
        at = x1 + (points[:, 1] - y1) / (y2 - y1) * (x2 - x1)
        count += spans & (at > points[:, 0])
    return count


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"counts": [3, 4]}, r"run lengths of 7 pixels do not fit 4 x 5"),
        ({"counts": [30, -10]}, "whole numbers of at least 0"),
        ({"counts": None}, "whole numbers of at least 0"),
        ({"counts": "X"}, "break off"),
        ([[1, 2, 3, 4]], "at least three finite corners, got 2"),
        ([[1, 2, 3, 4, 5]], "x and y in turn"),
        ([["a", 2, 3, 4, 5, 6]], "x and y in turn"),
        ([[0, 0, 1e400, 4, 5, 6]], "at least three finite corners"),
        (7, "polygons or run lengths, got int"),
    ],
)
def test_damaged_masks_are_refused(segmentation: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        decode(segmentation, height=4, width=5)


def test_pictures_are_those_whose_caption_says_what_is_marked(folder: str) -> None:
    source = Coco(folder=folder)
    found = {picture.id: (picture.concept, picture.caption) for picture in source.pictures}
    assert found == {
        139: ("dog", "Two men walk a big dog"),  # the largest of what any caption says
        285: ("hot dog", "a hot dog on a plate"),  # a larger dog is marked, but no caption says it
        632: ("airplane", "a plane in the sky"),
        785: ("cat", "a cat beside another cat"),
    }
    people = Coco(folder=folder, concepts=("person",)).pictures
    assert [(one.id, one.concept) for one in people] == [(139, "person")]
    assert [one.id for one in Coco(folder=folder, least=0.3).pictures] == [139, 785]
    assert 776 in [one.id for one in Coco(folder=folder, least=0.0).pictures]


def test_every_picture_is_asked_about_in_every_way(folder: str) -> None:
    prompts = {"describe": "what is this ?", "again": "draw {caption} with the {concept} !"}
    source = Coco(folder=folder, kinds=("describe", "draw", "again"), prompts=prompts, seed=3)
    assert len(source) == 4 * 3
    found = items(source)
    assert [item.index for item in found] == list(range(12))
    assert [item.error for item in found] == [""] * 12
    describe, draw, again = found[:3]
    assert [item.sample.id for item in found[:3]] == [
        f"000000000139-{k}" for k in ("describe", "draw", "again")
    ]
    assert describe.sample.prompt == "what is this ?"
    assert draw.sample.prompt == draw.sample.caption == "Two men walk a big dog"
    assert again.sample.prompt == "draw Two men walk a big dog with the dog !"
    assert (describe.modalities, draw.modalities) == (("text",), ("text", "image"))
    assert draw.sample.image is None
    assert draw.masks is None
    assert again.sample.image.size == SIZE[::-1]
    assert again.sample.concept.words[:2] == ("dog", "dogs")
    assert {"puppy", "puppies"} <= set(again.sample.concept.words)
    assert len({item.sample.seed for item in found}) == 12
    assert source[7].sample.seed == found[7].sample.seed
    assert found[7].sample.seed != Coco(folder=folder, seed=4)[5].sample.seed
    assert Coco(folder=folder)[0].sample.prompt == ""


def test_true_masks_come_along_and_the_segmenter_reads_them(folder: str) -> None:
    for item in items(Coco(folder=folder, kinds=("again",))):
        things = PICTURES[int(item.sample.id.partition("-")[0])][1]
        masks = item.masks or {}
        assert set(masks) == {name for name, _ in things}
        for name, mask in masks.items():
            expected = np.logical_or.reduce([true_mask(where) for other, where in things if other == name])
            np.testing.assert_array_equal(mask, expected)
        concept = item.sample.concept
        assert isinstance(concept, Concept)
        (found,) = TruthSegmenter().segment([item.sample.image], [concept], given=[masks])
        np.testing.assert_array_equal(found.pixels, masks[concept.name])


def test_a_subset_follows_from_the_seed(folder: str) -> None:
    chosen = {seed: [p.id for p in Coco(folder=folder, limit=2, seed=seed).pictures] for seed in range(8)}
    assert all(len(ids) == 2 and ids == sorted(ids) for ids in chosen.values())
    assert len({tuple(ids) for ids in chosen.values()}) > 2
    assert chosen[5] == [p.id for p in Coco(folder=folder, limit=2, seed=5).pictures]
    assert len(Coco(folder=folder, limit=99)) == 8
    assert subset(5, limit=None, seed=0) == subset(5, limit=5, seed=1) == [0, 1, 2, 3, 4]


def test_words_count_whole_and_the_longest_first() -> None:
    known = coco_concepts()
    mentions = Mentions(known)
    assert mentions("A hot dog, two Puppies and a catalogue on the dining table.") == [
        *("hot dog", "dog", "dining table"),
    ]
    only = Mentions({"dog": known["dog"]}, others=known.values())
    assert only("a hot dog") == []
    assert only("a dog and a hot dog") == ["dog"]
    assert set(coco_concepts(["bus"])["bus"].words) == {"bus", "buses"}
    odd = Mentions({"c++": concept_of("c++"), "é": concept_of("é")})
    assert odd("a book on C++, with an É") == ["c++", "é"]
    assert odd("xc++ c+++1 éa") == ["c++"]


def test_a_picture_that_cannot_be_read_is_a_row_with_its_reason(tmp_path: Path) -> None:
    folder = write_coco(tmp_path / "coco")
    (folder / "val2017" / "000000000139.jpg").unlink()
    path = folder / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    content["images"][1]["file_name"] = "../../secret.jpg"
    content["annotations"][4]["segmentation"] = {"size": [30, 40], "counts": [1, 2]}  # of picture 632
    path.write_text(json.dumps(content))
    source = Coco(folder=str(folder))
    found = items(source)
    assert "cannot read the picture" in found[0].error
    assert "leads out of" in found[2].error
    assert "run lengths of 3 pixels" in found[4].error
    assert [item.error for item in found[1::2]] == ["", "", "", ""]
    assert found[0].sample.concept.name == "dog"


def test_a_picture_of_another_size_than_its_annotations_say_is_a_row_with_its_reason(tmp_path: Path) -> None:
    """Also where the size is beyond any memory: no mask of it is made."""
    folder = write_coco(tmp_path / "coco")
    path = folder / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    content["images"][0] |= {"height": SIZE[1], "width": SIZE[0]}
    content["images"][1] |= {"height": 10**9, "width": 10**9}
    for mark in content["annotations"]:
        mark["area"] *= 10**18 if mark["image_id"] == content["images"][1]["id"] else 1
    path.write_text(json.dumps(content))
    found = items(Coco(folder=str(folder), kinds=("describe",)))
    assert "139.jpg is 40 x 30 pixels, its annotations are for 30 x 40" in found[0].error
    assert "its annotations are for 1000000000 x 1000000000: its masks would not fit" in found[1].error
    assert [item.error for item in found[2:]] == ["", ""]


def test_what_is_no_coco_is_one_clear_line(folder: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected .*captions_val2017\.json as COCO publishes it"):
        Coco(folder=str(tmp_path))
    with pytest.raises(ConfigError, match="captions_val2014"):
        Coco(folder=folder, split="val2014")
    (tmp_path / "annotations").mkdir()
    files = [tmp_path / "annotations" / f"{what}_val2017.json" for what in ("instances", "captions")]
    for content, message in (
        ("{", "is no JSON"),
        ("[]", "expected COCO's annotations with images, annotations"),
        ('{"images": [{}], "annotations": [{}], "categories": []}', "are not as COCO's: KeyError"),
        ("[" * 100_000, "is no JSON"),
        (
            '{"images": [], "annotations": [{"image_id": 1, "caption": null}], "categories": []}',
            "are not as COCO's: AttributeError",
        ),
        ('{"images": [], "annotations": [], "categories": []}', "no caption of val2017 says a thing"),
    ):
        for file in files:
            file.write_text(content)
        with pytest.raises(ConfigError, match=message):
            Coco(folder=str(tmp_path))
    for settings_, message in (
        ({"kinds": ()}, r"data\.source\.kinds is empty"),
        ({"kinds": ("draw", "draw")}, r"data\.source\.kinds names 'draw' twice"),
        ({"kinds": ("drow",)}, r"unknown kind 'drow' \(did you mean 'draw'\?\)"),
        ({"prompts": {"drawn": "x"}}, r"data\.source\.prompts: unknown kind 'drawn'"),
        ({"prompts": {"draw": "{colour}"}}, r"data\.source\.prompts\.draw may hold"),
        ({"concepts": ("dogg",)}, r"unknown thing 'dogg' \(did you mean 'dog'\?\)"),
        ({"least": 1.0}, r"data\.source\.least is a share"),
        ({"limit": 0}, r"data\.source\.limit must be at least 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            Coco(folder=folder, **settings_)


def test_the_config_builds_the_source(folder: str) -> None:
    node = OmegaConf.load(configs_folder() / "data" / "coco.yaml")
    cfg = OmegaConf.merge({"seed": 5}, {"data": node}, {"data": {"source": {"folder": folder}}})
    data = build(cfg.data)
    assert len(data.source) == 8
    assert data.source.seed == 5
