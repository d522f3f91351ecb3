"""Every segmenter against what it should find: on rendered scenes, and on a random network's own output."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from nam.app.build import build
from nam.errors import ConfigError, InputError, ModelError
from nam.folders import configs_folder
from nam.segmenter.base import Mask, Segmenter
from nam.segmenter.names import class_of
from nam.segmenter.scenes import CLASSES, SIDE, SceneSegmenter, mask_of
from nam.segmenter.truth import TruthSegmenter
from nam.segmenter.whole import WholeSegmenter
from nam.types import Concept
from nam.world.labels import segmentation
from nam.world.render import render
from nam.world.scene import NOUNS, Scene, sample_scene
from tests.evaluate.tiny_judge import write_segmenter


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> SceneSegmenter:
    """A random network, its masks not cleaned."""
    return SceneSegmenter(folder=str(write_segmenter(tmp_path_factory.mktemp("weights"))), speck=0.0)


def scenes(count: int) -> list[Scene]:
    rng = np.random.default_rng(0)
    return [sample_scene(rng, two_things=0.5) for _ in range(count)]


def pictures(count: int) -> list[Image.Image]:
    return [Image.fromarray(render(scene).image) for scene in scenes(count)]


def iou(mask: np.ndarray, true: np.ndarray) -> float:
    return float((mask & true).sum() / (mask | true).sum())


@pytest.mark.parametrize(
    ("concept", "name"),
    [
        (Concept("horse"), "horse"),
        (Concept("Horses"), "horse"),
        (Concept("kitten"), "cat"),
        (Concept("ship", ("dinghy",)), "boat"),
        (Concept("animal", ("puppies", "dogs")), "dog"),
        (Concept("dog", ("cat",)), "dog"),
        (Concept("grass"), "grass"),
        (Concept("night"), "night"),
    ],
)
def test_a_concept_is_found_by_its_name_or_else_its_forms(concept: Concept, name: str) -> None:
    assert class_of(concept, CLASSES) == name


@pytest.mark.parametrize(
    ("segmenter", "concept", "known"),
    [
        (SceneSegmenter(), "zebra", "; it knows " + ", ".join(CLASSES)),
        (TruthSegmenter(), "unicorn", r" .*the scenes \(" + ", ".join(NOUNS) + r"\) and COCO's 80"),
        (TruthSegmenter(), "grass", r" \(did you mean 'glass'|choose.*the scenes .* and COCO's 80"),
    ],
)
def test_an_unknown_concept_is_refused_by_naming_the_known(
    segmenter: Segmenter, concept: str, known: str
) -> None:
    expected = f"does not know '{concept}'{known}$"
    with pytest.raises(InputError, match=expected):
        segmenter.check(Concept(concept))
    with pytest.raises(InputError, match=expected):  # before any weights are looked for
        segmenter.segment(pictures(1), [Concept(concept)])


def test_masks_of_true_classes_are_the_true_masks() -> None:
    for scene in scenes(6):
        rendered = render(scene)
        classes = segmentation(rendered.masks, scene.place)
        sure = np.moveaxis(np.eye(len(CLASSES), dtype=np.float32)[classes] * 0.9 + 0.1 / 19, -1, 0)
        for noun, true in rendered.masks.items():
            mask = mask_of(sure, CLASSES.index(noun), size=(SIDE, SIDE), speck=0.0)
            np.testing.assert_array_equal(mask.pixels, true)
            assert mask.score == pytest.approx(0.9 + 0.1 / 19, abs=1e-6)
            large = mask_of(sure, CLASSES.index(noun), size=(256, 192), speck=0.005)
            assert large.pixels.shape == (192, 256)
            assert iou(large.pixels[1::3, 2::4], true) > 0.95
        absent = next(noun for noun in NOUNS if noun not in rendered.masks)
        nothing = mask_of(sure, CLASSES.index(absent), size=(SIDE, SIDE), speck=0.005)
        assert nothing.empty
        assert nothing.score == 0
        assert nothing.pixels.shape == (SIDE, SIDE)


def test_the_network_says_what_is_in_the_mask(segmenter: SceneSegmenter) -> None:
    images = pictures(3)
    arrays = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)
    with torch.no_grad():
        logits = segmenter.model(pixel_values=arrays / 127.5 - 1).logits
        logits = torch.nn.functional.interpolate(logits, size=(SIDE, SIDE), mode="bilinear")
    said = logits.argmax(1).numpy()
    for index in np.unique(said).tolist():
        masks = segmenter.segment(images, [Concept(CLASSES[index])] * 3)
        for row, mask in enumerate(masks):
            # all but near ties, which softmax and interpolation may round either way
            assert (mask.pixels == (said[row] == index)).mean() > 0.998
            assert mask.empty == (mask.score == 0)
    assert len(np.unique(said)) > 1


def test_a_mask_depends_on_its_own_picture_and_has_its_size(segmenter: SceneSegmenter) -> None:
    images = [
        image.resize(size) for image, size in zip(pictures(3), [(64, 64), (91, 50), (30, 200)], strict=True)
    ]
    concepts = [Concept("dog"), Concept("house"), Concept("sky")]
    together = segmenter.segment(images, concepts)
    for image, concept, mask in zip(images, concepts, together, strict=True):
        (alone,) = segmenter.segment([image], [concept])
        assert mask.pixels.shape == (image.height, image.width)
        assert (mask.pixels == alone.pixels).mean() > 0.99
        assert mask.score == pytest.approx(alone.score, abs=1e-4)


def test_true_masks_are_passed_on() -> None:
    rendered = render(scenes(1)[0])
    (noun, true), *_ = rendered.masks.items()
    absent = next(noun for noun in NOUNS if noun not in rendered.masks)
    image = Image.fromarray(rendered.image)
    found, missing = TruthSegmenter().segment(
        [image, image], [Concept("it", (noun,)), Concept(absent)], given=[rendered.masks] * 2
    )
    np.testing.assert_array_equal(found.pixels, true)
    assert found.score == 1
    assert missing.empty
    assert missing.score == 0
    with pytest.raises(InputError, match="knows no mask of this picture"):
        TruthSegmenter().segment([image], [Concept(noun)])
    small = image.resize((48, 32))
    with pytest.raises(InputError, match=r"picture's size \(32, 48\), got \(64, 64\); segmenter\.resize"):
        TruthSegmenter().segment([small], [Concept(noun)], given=[rendered.masks])
    (stretched,) = TruthSegmenter(resize=True).segment([small], [Concept(noun)], given=[rendered.masks])
    assert stretched.pixels.shape == (32, 48)
    assert stretched.area == pytest.approx(true.mean(), rel=0.2)


def test_true_masks_of_coco_are_found_by_other_words() -> None:
    image = Image.new("RGB", (6, 4))
    left, right = np.zeros((4, 6), dtype=bool), np.zeros((4, 6), dtype=bool)
    left[:, :2] = right[:, 4:] = True
    given = {"wine glass": left, "cup": right, "airplane": left}
    nothing = left & right
    for words, expected in (
        *(("glasses", left | right), ("plane", left)),
        *(("mug", right), ("zebra", nothing)),
    ):
        (mask,) = TruthSegmenter().segment([image], [Concept(words)], given=[given])
        np.testing.assert_array_equal(mask.pixels, expected)


def test_without_a_segmenter_the_region_is_the_picture() -> None:
    (mask,) = WholeSegmenter().segment([Image.new("RGB", (30, 20))], [Concept("anything")])
    assert mask.pixels.shape == (20, 30)
    assert mask.area == mask.score == 1
    assert not mask.empty
    assert WholeSegmenter().segment([], []) == []


def test_lists_of_different_lengths_are_refused() -> None:
    with pytest.raises(InputError, match="got 2 pictures, 1 concepts and 2 sets"):
        WholeSegmenter().segment(pictures(2), [Concept("dog")])
    with pytest.raises(InputError, match="got 1 pictures, 1 concepts and 0 sets"):
        TruthSegmenter().segment(pictures(1), [Concept("dog")], given=[])


def test_a_mask_is_checked() -> None:
    with pytest.raises(ValueError, match="bool mask"):
        Mask(np.ones((2, 2)), 1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="from 0 to 1, got nan"):
        Mask(np.ones((2, 2), dtype=bool), float("nan"))


def test_foreign_or_missing_weights_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"missing weights: .*; set segmenter\.folder$"):
        SceneSegmenter(folder=str(tmp_path / "nowhere")).segment(pictures(1), [Concept("dog")])
    with pytest.raises(ModelError, match="missing weights"):
        SceneSegmenter(folder=str(tmp_path)).segment(pictures(1), [Concept("dog")])
    folder = write_segmenter(tmp_path)
    config = folder / "segmenter" / "config.json"
    config.write_text(config.read_text().replace('"horse"', '"zebra"'))
    with pytest.raises(ModelError, match=r"expected the classes sun, .*, horse, .* got sun, .*, zebra"):
        SceneSegmenter(folder=str(folder)).segment(pictures(1), [Concept("dog")])
    with pytest.raises(ConfigError, match=r"segmenter\.speck is a share"):
        SceneSegmenter(speck=1.5)
    with pytest.raises(ConfigError, match=r"segmenter\.device='nowhere'"):
        _ = SceneSegmenter(folder=str(write_segmenter(tmp_path / "good")), device="nowhere").model


@pytest.mark.parametrize(
    "path", sorted((configs_folder() / "segmenter").glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_config_builds_a_segmenter(path: Path) -> None:
    assert isinstance(build(OmegaConf.load(path)), Segmenter)  # type: ignore[arg-type]
