"""What a model cannot take is one clear line, and every kind of picture is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nam.errors import InputError
from nam.hooks import Recorder
from nam.mllm.gill import GILL
from nam.mllm.pictures import read_picture, to_picture, to_pixels


def pixels(picture: Image.Image) -> torch.Tensor:
    return to_pixels(picture, size=64, mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt": ""}, "prompt is empty"),
        ({"prompt": "  \n "}, "prompt is empty"),
        ({}, "prompt is empty"),
        ({"prompt": "draw a red hors"}, r"does not know: 'hors' \(did you mean 'horse'"),
        ({"prompt": "a dog </s> a cat"}, "reserved tokens: </s>"),
        ({"prompt": "a dog [IMG0]"}, r"reserved tokens: \[IMG0\]"),
        ({"prompt": "dog " * 80}, "has 82 tokens .* at most 55 fit, because the context of 64"),
        ({"prompt": ["a dog", "a xylophone"]}, "sample 1: .*'xylophone'"),
        ({"prompt": ["a dog"], "seed": [1, 2]}, "expected lists of one length, got prompt 1, seed 2"),
        ({"prompt": 3}, "expected a prompt in words, got 3$"),
        ({"prompt": "a dog", "seed": -1}, "seed must be an integer from 0"),
        ({"prompt": 0}, "expected a prompt in words, got 0$"),
        ({"prompt": np.array(["a dog", "a cat"])}, "expected a prompt in words, got ndarray"),
        ({"prompt": "a xylophone"}, r"'xylophone' \(choose from a, \w+, \w+, "),
        ({"prompt": "a dog", "seed": 0.5}, "seed must be an integer"),
        ({"prompt": "a dog", "seed": True}, "seed must be an integer from 0 .* got True"),
        ({"prompt": "a dog", "seed": np.int64(-1)}, r"seed must be .* got np\.int64\(-1\)"),
        ({"prompt": "a dog", "seed": 2**63}, "seed must be an integer from 0 to 9223372036854775807"),
        ({"prompt": "a dog", "max_new_tokens": 2.0}, "max_new_tokens must be an integer of at least 1"),
        ({"prompt": "a dog", "record": 3}, "record: expected a recorder, .* got 3"),
        ({"prompt": "a dog", "record": Recorder}, "record: expected a recorder, .* got the class Recorder"),
        ({"prompt": "a dog", "draw": 1}, 'draw must be "auto", True or False, or what to draw, got 1'),
        ({"prompt": "a dog", "draw": None}, "draw must be .* got None"),
        ({"prompt": "a dog", "draw": np.array([1, 2])}, "draw must be"),
        ({"prompt": "a dog", "guidance": True}, "guidance must be a number"),
        ({"prompt": "a dog", "image": ""}, "no picture: its path is empty"),
        ({"prompt": "a dog", "image": "https://x.org/a.png"}, "download https://x.org/a.png first"),
        ({"prompt": "a dog", "image": "data:image/png;base64,AAAA"}, "URLs are not read"),
        ({"prompt": "a dog", "max_new_tokens": 0}, "max_new_tokens must be"),
        ({"prompt": "a dog", "draw": "maybe"}, "draw must be"),
        ({"prompt": "a dog", "steps": 0}, "steps must be an integer from 1 to 1000, got 0"),
        ({"prompt": "a dog", "steps": 1001}, "got 1001"),
        ({"prompt": "a dog", "guidance": float("nan")}, "guidance must be a number"),
        ({"prompt": "a dog", "image": 7}, "expected a picture as path, PIL image or uint8 array, got int"),
        ({"image": np.zeros((8, 8, 3))}, "expected a uint8 picture .* got float64"),
        ({"image": np.zeros((8, 8, 4), np.uint8)}, r"got uint8 of shape \(8, 8, 4\)"),
        ({"image": np.zeros((0, 8, 3), np.uint8)}, "empty array"),
    ],
)
def test_bad_input_is_refused(shared_gill: GILL, settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        shared_gill.generate(**settings)  # type: ignore[arg-type]


def test_integers_and_numbers_of_numpy_are_numbers(shared_gill: GILL) -> None:
    out = shared_gill.generate(
        prompt="a dog", seed=np.int64(3), max_new_tokens=np.int32(2), draw=True, steps=np.int64(2),  # type: ignore[arg-type]
        guidance=np.float32(1.5),  # type: ignore[arg-type]
    )  # fmt: skip
    same = shared_gill.generate(prompt="a dog", seed=3, max_new_tokens=2, draw=True, steps=2, guidance=1.5)
    assert (out.seed, out.token_ids, out.drawn) == (3, same.token_ids, same.drawn)
    assert type(out.seed) is int
    assert np.array_equal(np.asarray(out.image), np.asarray(same.image))


def test_a_prompt_beyond_the_context_gets_no_remark_beside_our_error(
    shared_gill: GILL, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(
        "transformers.tokenization_utils_base.logger.warning", lambda line, *_: said.append(line)
    )
    with pytest.raises(InputError, match="has 82 tokens"):
        shared_gill.generate(prompt="dog " * 80)
    assert not said
    assert len(shared_gill.codec.tokenizer("dog " * 80)["input_ids"]) > 64
    assert [line.partition(" is longer")[0] for line in said] == ["Token indices sequence length"]


def test_the_longest_prompt_that_fits_is_answered(shared_gill: GILL) -> None:
    out = shared_gill.generate(prompt="dog " * 53, draw=True, steps=1)
    assert out.spans.text.stop == 55
    assert len(out.answer_ids) <= 1
    assert len(out.token_ids) <= 64
    with pytest.raises(InputError, match="has 56 tokens"):
        shared_gill.generate(prompt="dog " * 54)
    with pytest.raises(InputError, match=r"has 56 tokens \(5 of them a picture's\)"):
        shared_gill.generate(prompt="dog " * 49, image=np.zeros((64, 64, 3), np.uint8))


def test_broken_pictures_are_refused(tmp_path: Path, shared_gill: GILL) -> None:
    whole = tmp_path / "whole.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(whole)
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole.read_bytes()[:3000])
    text = tmp_path / "text.png"
    text.write_text("not a picture")
    for path in (cut, text, tmp_path / "absent.png", tmp_path):
        with pytest.raises(InputError, match="cannot read"):
            shared_gill.generate(image=path)


@pytest.mark.parametrize("side", [8100, 12_000, 20_000])
def test_huge_pictures_are_refused_before_they_are_decoded(tmp_path: Path, side: int) -> None:
    path = tmp_path / "huge.png"
    Image.new("1", (side, side)).save(path)
    with pytest.raises(InputError, match=r"too large: .*at most 64,000,000"):
        read_picture(path)


def test_programs_in_pictures_do_not_run(tmp_path: Path) -> None:
    path = tmp_path / "picture.eps"
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\nshowpage\n")
    with pytest.raises(InputError, match="cannot read"):
        read_picture(path)


def test_every_kind_of_picture_reads_alike(tmp_path: Path) -> None:
    rgb = np.random.default_rng(1).integers(0, 256, (48, 80, 3), dtype=np.uint8)
    picture = Image.fromarray(rgb)
    path = tmp_path / "picture.png"
    picture.save(path)
    expected = pixels(picture)
    assert expected.shape == (3, 64, 64)
    opaque = picture.convert("RGBA")
    for source in (rgb, path, str(path), opaque):
        assert torch.equal(pixels(read_picture(source)), expected)
    grey = np.asarray(picture.convert("L"))
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    assert deep.mode.startswith("I;16")
    for source in (picture.convert("L"), grey, deep):
        assert torch.equal(pixels(read_picture(source)), pixels(picture.convert("L").convert("RGB")))


def test_transparent_becomes_white_and_pictures_stand_upright() -> None:
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert np.asarray(read_picture(clear)).min() == 255
    turned = Image.new("RGB", (8, 4), "red")
    turned.getexif()[0x0112] = 6
    assert read_picture(turned).size == (4, 8)


def test_shrinking_averages_areas() -> None:
    rgb = np.random.default_rng(2).integers(0, 256, (256, 128, 3), dtype=np.uint8)
    averaged = rgb.reshape(64, 4, 64, 2, 3).mean((1, 3))
    got = (pixels(Image.fromarray(rgb)).permute(1, 2, 0).numpy() * 0.5 + 0.5) * 255
    assert np.abs(got - averaged).max() <= 1


def test_pixels_become_pictures() -> None:
    values = torch.tensor([-0.5, 0.0, 0.5, 1.0, 1.5]).expand(3, 1, 5)
    assert np.asarray(to_picture(values))[0, :, 0].tolist() == [0, 0, 128, 255, 255]
