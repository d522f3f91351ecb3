"""Segmenters of transformers: against transformers' own post-processing, and on outputs made by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from nam.errors import ConfigError, ModelError
from nam.options import option
from nam.segmenter.base import Mask
from nam.segmenter.pretrained import PretrainedSegmenter, batches
from nam.types import Concept
from tests.segmenter.tiny_pretrained import LABELS, write

LABELLED = ("mask2former", "oneformer", "eomt")
KINDS = (*LABELLED, "sam3", "clipseg")

#: Height and width of pictures that are wide, tall and square.
SIZES = ((60, 100), (60, 100), (90, 40), (64, 64))


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {kind: str(write(kind, tmp_path_factory.mktemp(kind))) for kind in KINDS}


def segmenter(kind: str, folders: dict[str, str], **settings: Any) -> PretrainedSegmenter:
    """As its config chooses it, from a folder; its masks are not cleaned."""
    made: PretrainedSegmenter = option("segmenter", kind, id=folders[kind], speck=0.0, **settings)
    return made


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    coarse = [Image.fromarray(rng.integers(0, 255, (5, 5, 3), dtype=np.uint8)) for _ in SIZES]
    return [one.resize(size[::-1], Image.Resampling.BICUBIC) for one, size in zip(coarse, SIZES, strict=True)]


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max(1, (a | b).sum()))


def with_box(size: tuple[int, int]) -> tuple[Image.Image, np.ndarray]:
    """A blue picture with a red box left of the middle, low down; and where the box is."""
    box = np.zeros(size, dtype=bool)
    box[size[0] // 2 : size[0] * 7 // 8, size[1] // 8 : size[1] // 2] = True
    return Image.fromarray(np.where(box[..., None], (255, 0, 0), (0, 0, 255)).astype(np.uint8)), box


class SeesRed(torch.nn.Module):
    """Gives what a perfect model would: query 0 is the red of what it reads, query 1 the blue, at half the
    size; query 2 is nothing. What is padded is neither."""

    def __init__(self, real: Any, **outputs: Any) -> None:
        super().__init__()
        self.config, self.outputs = real.config, outputs
        self.parameter = torch.nn.Parameter(torch.zeros(1))

    def forward(self, pixel_values: Tensor, **others: Tensor) -> Any:
        difference = F.avg_pool2d(pixel_values[:, :1] - pixel_values[:, 2:], 2)
        masks = 20 * torch.cat((difference, -difference, torch.zeros_like(difference) - 1), dim=1)
        given = {name: value.expand(len(masks), *value.shape) for name, value in self.outputs.items()}
        return SimpleNamespace(masks_queries_logits=masks, pred_masks=masks, logits=masks[:, 0], **given)


def hand_set(made: PretrainedSegmenter, **outputs: Any) -> None:
    made.__dict__["model"] = SeesRed(made.model, **outputs)


def classes(*places: int, sure: float = 9.0) -> Tensor:
    """Logits of queries (Q, labels + 1) that are surely of these labels."""
    return sure * F.one_hot(torch.tensor(places), len(LABELS) + 1).float()


@pytest.mark.parametrize("size", [(60, 100), (90, 40), (64, 64), (300, 500)])
@pytest.mark.parametrize("kind", LABELLED)
def test_a_label_lands_where_it_is(kind: str, size: tuple[int, int], folders: dict[str, str]) -> None:
    made = segmenter(kind, folders)
    image, box = with_box(size)
    # The red is a cat, the blue a wall of brick, the rest no label at all.
    hand_set(made, class_queries_logits=classes(0, 5, len(LABELS)))
    cat, wall, dog = made.segment([image] * 3, [Concept("kitten"), Concept("wall"), Concept("dog")])
    assert iou(cat.pixels, box) > 0.8
    assert iou(wall.pixels, ~box) > 0.9
    assert cat.score > 0.85
    assert dog.empty
    assert dog.score == 0
    # A wall of wood is another label; the word "wall" stands for both.
    hand_set(made, class_queries_logits=classes(6, 5, len(LABELS)))
    assert made.segment([image], [Concept("walls")])[0].area > 0.95


@pytest.mark.parametrize("kind", LABELLED)
def test_a_label_must_be_sure_enough_and_ahead(kind: str, folders: dict[str, str]) -> None:
    image, box = with_box((160, 240))
    half = torch.full((3, len(LABELS) + 1), -30.0)
    half[0, 0], half[0, -1] = 0.0, 0.4  # a cat with a probability of 0.40, else nothing
    half[1, 4] = half[2, -1] = 0.0
    for threshold, found in ((0.5, False), (0.3, True)):
        made = segmenter(kind, folders, threshold=threshold)
        hand_set(made, class_queries_logits=half)
        (mask,) = made.segment([image], [Concept("cat")])
        assert mask.empty is not found
        assert not found or mask.score == pytest.approx(0.40, abs=0.02)
    half[0, 1] = 0.1  # a dog is likelier than the cat
    made = segmenter(kind, folders, threshold=0.2)
    hand_set(made, class_queries_logits=half)
    cat, dog = made.segment([image] * 2, [Concept("cat"), Concept("dog")])
    assert cat.empty
    assert iou(dog.pixels, box) > 0.7


@pytest.mark.parametrize("size", [(60, 100), (90, 40), (300, 500)])
def test_sam3_joins_the_instances_that_are_sure(size: tuple[int, int], folders: dict[str, str]) -> None:
    made = segmenter("sam3", folders)
    image, box = with_box(size)
    scores = {"pred_logits": torch.tensor([2.0, -2.0, -9.0]), "presence_logits": torch.tensor([1.0])}
    hand_set(made, **scores)
    (mask,) = made.segment([image], [Concept("horse")])
    assert iou(mask.pixels, box) > 0.85
    sure = torch.sigmoid(torch.tensor([2.0, 1.0])).prod().item()
    assert mask.score == pytest.approx(sure, abs=1e-5)
    hand_set(made, **(scores | {"pred_logits": torch.tensor([2.0, 2.0, -9.0])}))
    assert made.segment([image], [Concept("horse")])[0].area > 0.95
    hand_set(made, **(scores | {"presence_logits": torch.tensor([-1.0])}))  # instances, but not of this
    assert made.segment([image], [Concept("horse")])[0].empty


@pytest.mark.parametrize("size", [(60, 100), (90, 40), (300, 500)])
def test_clipseg_s_map_is_cut_at_the_threshold(size: tuple[int, int], folders: dict[str, str]) -> None:
    made = segmenter("clipseg", folders)
    image, box = with_box(size)
    hand_set(made)
    (mask,) = made.segment([image], [Concept("anything at all")])
    assert iou(mask.pixels, box) > 0.85
    assert mask.score > 0.85


@pytest.mark.parametrize("kind", LABELLED)
def test_masks_are_those_of_transformers_own_post_processing(kind: str, folders: dict[str, str]) -> None:
    given = {label: [label] for label in LABELS}
    made = segmenter(kind, folders, threshold=0.0, labels=given, batch=1)
    image = pictures()[3]  # square: nothing is padded, which their semantic maps take no account of
    draw = torch.Generator().manual_seed(3)
    logits = F.interpolate(3 * torch.randn(1, 7, 5, 5, generator=draw), size=(32, 32), mode="bicubic")
    scores = {"class_queries_logits": 3 * torch.randn(7, len(LABELS) + 1, generator=draw)}
    hand_set(made, **scores)
    out = SimpleNamespace(
        masks_queries_logits=logits,
        class_queries_logits=scores["class_queries_logits"][None],
        patch_offsets=None,
    )
    made.model.forward = lambda **inputs: out
    (said,) = made.processor.post_process_semantic_segmentation(out, target_sizes=[(64, 64)])
    seen = np.unique(said.numpy()).tolist()
    assert len(seen) > 2
    masks = made.segment([image] * len(LABELS), [Concept(label) for label in LABELS])
    for place, mask in enumerate(masks):
        assert (mask.pixels == (said.numpy() == place)).mean() > 0.97
        assert mask.empty is (place not in seen)


def test_sam3_s_mask_is_the_union_of_its_instances(folders: dict[str, str]) -> None:
    made = segmenter("sam3", folders, threshold=0.255, mask_threshold=0.6)
    image = pictures()[0]
    words = made.tokenizer("dog", padding="max_length", max_length=16, return_tensors="pt")
    small = np.asarray(image.resize((56, 56), Image.Resampling.BILINEAR), dtype=np.float64) / 127.5 - 1
    pixels = torch.from_numpy(small).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        out = made.model(pixel_values=pixels, input_ids=words.input_ids, attention_mask=words.attention_mask)
    expected, sures = np.zeros((60, 100), dtype=bool), []
    for logit, logits in zip(out.pred_logits[0].tolist(), out.pred_masks[0], strict=True):
        sure = 1 / (1 + np.exp(-logit)) / (1 + np.exp(-out.presence_logits[0].item()))
        if sure > 0.255:
            sures.append(sure)
            large = Image.fromarray(logits.sigmoid().numpy()).resize((100, 60), Image.Resampling.BILINEAR)
            expected |= np.asarray(large) > 0.6
    (mask,) = made.segment([image], [Concept("dog")])
    assert 0 < len(sures) < 6
    assert 0.05 < mask.area < 0.95
    assert (mask.pixels == expected).mean() > 0.97
    assert mask.score == pytest.approx(max(sures), abs=1e-4)


def test_clipseg_reads_the_name_in_its_prompt(folders: dict[str, str]) -> None:
    made = segmenter("clipseg", folders, prompt="a {}", threshold=0.5)
    image = pictures()[0]
    words = made.tokenizer(["a dog"], return_tensors="pt")
    with torch.no_grad():
        out = made.model(
            input_ids=words.input_ids,
            attention_mask=words.attention_mask,
            **made.processor(images=image, return_tensors="pt"),
        )
    heat = out.logits.reshape(64, 64).sigmoid().numpy()
    large = np.asarray(Image.fromarray(heat).resize((100, 60), Image.Resampling.BILINEAR))
    (mask,) = made.segment([image], [Concept("dog")])
    assert 0.05 < mask.area < 0.95
    assert (mask.pixels == (large > 0.5)).mean() > 0.95
    assert mask.score == pytest.approx(large[mask.pixels].mean(), abs=0.02)


def test_a_mask_depends_on_its_own_picture_and_has_its_size(kind: str, folders: dict[str, str]) -> None:
    made = segmenter(kind, folders, threshold=0.05, batch=2)
    images = pictures()
    concepts = [Concept(name) for name in ("cat", "dog", "dog", "cat")]
    together = made.segment(images, concepts)
    for image, concept, mask in zip(images, concepts, together, strict=True):
        (alone,) = made.segment([image], [concept])
        assert mask.pixels.shape == (image.height, image.width)
        assert (mask.pixels == alone.pixels).mean() > 0.99
        assert mask.score == pytest.approx(alone.score, abs=1e-4)
        assert mask.empty == (mask.score == 0)


def test_half_precision_and_a_missing_device(kind: str, folders: dict[str, str]) -> None:
    exact, half = (segmenter(kind, folders, dtype=dtype) for dtype in ("float32", "bfloat16"))
    assert next(half.model.parameters()).dtype == torch.bfloat16
    image, concept = pictures()[:1], [Concept("cat")]
    assert (exact.segment(image, concept)[0].pixels == half.segment(image, concept)[0].pixels).mean() > 0.9
    assert not any(parameter.requires_grad for parameter in exact.model.parameters())
    with pytest.raises(ConfigError, match=r"segmenter\.device='nowhere'"):
        _ = segmenter(kind, folders, device="nowhere").model


def test_its_origin_is_told_without_reading_it(folders: dict[str, str]) -> None:
    assert segmenter("eomt", folders).origin == Path(folders["eomt"])
    assert option("segmenter", "sam3").origin == "facebook/sam3@main"
    assert option("segmenter", "sam3", revision="abc").origin == "facebook/sam3@abc"


def test_batches_hold_pictures_of_one_size() -> None:
    assert list(batches([(4, 3), (5, 3), (4, 3), (4, 3)], most=2)) == [[0, 2], [3], [1]]


def test_what_cannot_be_used_is_one_clear_line(folders: dict[str, str], tmp_path: Path) -> None:
    for settings, message in (
        ({"threshold": 1.0}, r"segmenter\.threshold is a share"),
        ({"speck": -0.1}, r"segmenter\.speck is a share"),
        ({"batch": 0}, r"segmenter\.batch must be an integer of at least 1"),
        ({"dtype": "float31"}, r"segmenter\.dtype='float31' is unknown \(did you mean 'float32'\?\)"),
        ({"prompt": "a photo"}, r"segmenter\.prompt needs \{\}"),
        ({"prompt": "{} {name}"}, r"segmenter\.prompt needs \{\}"),
        ({"mask_threshold": 2.0}, r"segmenter\.mask_threshold"),
    ):
        with pytest.raises(ConfigError, match=message):
            option("segmenter", "sam3", **settings)
    cat = [Concept("cat")]
    with pytest.raises(ModelError, match=r"missing weights|no tokenizer"):
        option("segmenter", "sam3", id=str(tmp_path)).segment(pictures()[:1], cat)
    with pytest.raises(ModelError, match="Sam3Model"):
        option("segmenter", "sam3", id=folders["clipseg"]).segment(pictures()[:1], cat)
    with pytest.raises(ModelError, match="cannot read"):
        option("segmenter", "eomt", id=folders["sam3"]).segment(pictures()[:1], cat)
    whole = write("eomt", tmp_path / "eomt")
    settings_file = whole / "preprocessor_config.json"
    settings_file.write_text(
        settings_file.read_text().replace('"do_split_image": false', '"do_split_image": true')
    )
    with pytest.raises(ModelError, match="reads pictures in pieces"):
        option("segmenter", "eomt", id=str(whole)).segment(pictures()[:1], cat)
    settings_file.unlink()
    with pytest.raises(ModelError, match="cannot read the image processor"):
        option("segmenter", "eomt", id=str(whole)).segment(pictures()[:1], cat)


def test_an_unknown_concept_leaves_the_others_alone(folders: dict[str, str]) -> None:
    """What the chain from items to scores does with a batch of which one concept has no label."""
    from nam.halving import halve

    made, errors, masks = segmenter("eomt", folders), dict[str, str](), dict[str, Mask]()

    def work(names: Any) -> None:
        found = made.segment([pictures()[0]] * len(names), [Concept(name) for name in names])
        masks.update(zip(names, found, strict=True))

    halve(work, ["cat", "girafe", "dog"], errors.__setitem__)
    assert set(masks) == {"cat", "dog"}
    assert "no label for 'girafe'" in errors["girafe"]
