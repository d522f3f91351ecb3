"""CLIPScore against values by hand and against CLIPModel's own forward pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nam.data.scenes import to_pixels
from nam.errors import InputError, ModelError
from nam.evaluate.clipscore import ClipScore, clip_score, load_clipscore
from nam.world.render import render
from nam.world.scene import sample_scene
from nam.world.tokenizer import build_tokenizer, encode_captions

TEXTS = [
    "horse, horses, pony",
    "cat",
    "a red car on the grass by the house with a blue door and more and more words",
]


@pytest.fixture(scope="module")
def score(gill_folder: Path) -> ClipScore:
    return load_clipscore(gill_folder)


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(render(sample_scene(rng), rng=rng).image) for _ in TEXTS]


def test_score_by_hand() -> None:
    text = torch.tensor([[3.0, 4.0], [3.0, 4.0], [1.0, 0.0]])
    picture = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.5]])
    torch.testing.assert_close(clip_score(text, picture), torch.tensor([2.5 * 0.6, 2.5 * 0.8, 0.0]))
    torch.testing.assert_close(clip_score(text, picture, weight=1.0)[0], torch.tensor(0.6))
    assert clip_score(text[:, None], picture[None]).shape == (3, 3)


def test_score_is_that_of_the_models_own_forward(score: ClipScore, pictures: list[Image.Image]) -> None:
    ids, mask = encode_captions(build_tokenizer(), TEXTS)
    pixels = to_pixels(np.stack([np.asarray(picture) for picture in pictures]))
    with torch.no_grad():
        out = score.model(input_ids=ids, attention_mask=mask, pixel_values=pixels)
    cosines = (out.logits_per_text / score.model.logit_scale.exp()).diag()
    expected = 2.5 * cosines.clamp(min=0)
    torch.testing.assert_close(score(TEXTS, pictures), expected, rtol=1e-4, atol=1e-5)
    assert expected.unique().numel() > 1


def test_a_score_depends_on_its_pair_alone(score: ClipScore, pictures: list[Image.Image]) -> None:
    together = score.embed_texts(TEXTS)
    torch.testing.assert_close(together, torch.cat([score.embed_texts([text]) for text in TEXTS]))
    one = score(TEXTS, pictures[:1])
    torch.testing.assert_close(one, score(TEXTS, pictures[:1] * 3))
    assert score([], []).shape == (0,)
    with pytest.raises(InputError, match="got 2 for 3 texts"):
        score(TEXTS, pictures[:2])


def test_the_prefix_is_read_and_named(gill_folder: Path, score: ClipScore) -> None:
    with_prefix = load_clipscore(gill_folder, prefix="a picture of ")
    torch.testing.assert_close(with_prefix.embed_texts(["a cat"]), score.embed_texts(["a picture of a cat"]))
    assert score.column == f"clipscore[{gill_folder.name}]"
    assert with_prefix.column == f"clipscore[{gill_folder.name},prefix=a picture of]"
    assert load_clipscore(gill_folder, weight=1.0).column == f"clipscore[{gill_folder.name},weight=1.0]"


def test_a_published_layout_brings_its_own_processor(gill_folder: Path, tmp_path: Path) -> None:
    import shutil

    from transformers import CLIPImageProcessorPil

    folder = tmp_path / "published"
    shutil.copytree(gill_folder / "clip", folder)
    with pytest.raises(ModelError, match=r"preprocessor_config\.json is missing"):
        load_clipscore(folder)
    CLIPImageProcessorPil(
        size={"shortest_edge": 64},
        crop_size={"height": 64, "width": 64},
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
    ).save_pretrained(folder)
    score = load_clipscore(folder)
    picture = np.zeros((64, 128, 3), np.uint8)
    picture[:, 32:96] = 255  # what the crop keeps is white
    white = torch.ones(1, 3, 64, 64)
    with torch.no_grad():
        expected = score.model.get_image_features(pixel_values=white).pooler_output
    torch.testing.assert_close(
        score.embed_pictures([Image.fromarray(picture)]), expected, rtol=1e-4, atol=1e-5
    )
