"""Pictures of odd shapes: a strip costs no gigabytes, and what image processors misread is refused."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nam.errors import InputError
from nam.mllm import pictures
from nam.mllm.pictures import to_pixels
from nam.mllm.tiny_unified import read_tiny_unified
from nam.mllm.tiny_vlm import read_tiny_vlm

CROP: dict[str, Any] = {"size": 24, "mean": (0.0,) * 3, "std": (1.0,) * 3, "fit": "crop"}


@cache
def made(family: str) -> Any:
    return read_tiny_unified(family=family) if family == "emu3" else read_tiny_vlm(family=family)


def noise(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def test_of_a_long_strip_only_its_middle_is_enlarged(monkeypatch: pytest.MonkeyPatch) -> None:
    middle = noise(24, 24)
    strip = Image.new("RGB", (2_000_024, 24))
    strip.paste(middle, (1_000_000, 0))
    monkeypatch.setattr(pictures, "MAX_PIXELS", 24 * 2_000_024 - 1)
    cut = pictures._cropped(strip, 24)
    np.testing.assert_array_equal(np.asarray(cut), np.asarray(middle))


@pytest.mark.parametrize("shape", [(90, 30), (30, 90), (61, 17), (17, 61)])
def test_it_is_cut_as_others_are(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole enlarged and then cut; the two ways round their numbers in another order."""
    y, x = np.mgrid[: shape[1], : shape[0]]
    smooth = np.stack([x * 255 // x.max(), y * 255 // y.max(), (x + y) * 255 // (x + y).max()], axis=-1)
    image = Image.fromarray(smooth.astype(np.uint8))
    whole = to_pixels(image, **CROP)
    monkeypatch.setattr(pictures, "MAX_PIXELS", 0)
    cut = np.asarray(pictures._cropped(image, 24), dtype=float).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(cut, whole.numpy(), atol=2.1 / 255)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "emu3"])
@pytest.mark.parametrize("shape", [(3, 40), (40, 3), (1, 1), (4, 805), (5000, 4)])
def test_what_processors_misread_is_refused(shape: tuple[int, int], family: str) -> None:
    """A side of 1 or 3 pixels may be taken for the colours; a strip is one error or gigabytes."""
    with pytest.raises(InputError, match=rf"at least 4 pixels a side, .* got {shape[0]} x {shape[1]}"):
        made(family).generate("what is this?", image=noise(*shape), max_new_tokens=1, draw=False)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "emu3"])
@pytest.mark.parametrize("shape", [(4, 4), (40, 4), (4, 40)])
def test_small_pictures_are_read(shape: tuple[int, int], family: str) -> None:
    out = made(family).generate("what is this?", image=noise(*shape), max_new_tokens=1, draw=False)
    assert len(out.spans.picture) > 0
    assert bool(out.input_pixels.isfinite().all())
