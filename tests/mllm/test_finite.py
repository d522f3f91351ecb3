"""Weights that are no numbers are refused when they are read, whichever part they are in."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from nam.errors import ModelError
from nam.mllm.gill_folder import read_gill
from nam.mllm.parts import require_finite

NAN, INF = float("nan"), float("inf")


def spoilt(whole: Path, folder: Path, part: str, value: float) -> str:
    """A copy of the model in `folder`, one weight of a part replaced; the name of its tensor."""
    shutil.copytree(whole, folder)
    path = next((folder / part).glob("*.safetensors"))
    weights = load_file(path)
    name = max(weights, key=lambda key: ("bias" not in key and "vision" in key, weights[key].numel()))
    wide = weights[name].float()
    wide.view(-1)[wide.numel() // 3] = value
    save_file({**weights, name: wide}, path, metadata={"format": "pt"})
    return name


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("part", ["language_model", "gill"])
def test_what_is_read_at_once_is_refused_at_once(
    part: str, value: float, gill_folder: Path, tmp_path: Path
) -> None:
    name = spoilt(gill_folder, tmp_path / "model", part, value)
    with pytest.raises(ModelError, match=f"{part}.*{name.removeprefix('model.')} holds NaN or infinity"):
        read_gill(folder=tmp_path / "model")


@pytest.mark.parametrize("part", ["unet", "vae", "clip"])
def test_what_is_read_later_is_refused_then(part: str, gill_folder: Path, tmp_path: Path) -> None:
    spoilt(gill_folder, tmp_path / "model", part, NAN)
    model = read_gill(folder=tmp_path / "model")
    assert model.generate(prompt="a cat", draw=False).token_ids
    picture = Image.new("RGB", (8, 8)) if part == "clip" else None
    with pytest.raises(ModelError, match=f"model/{part}: .* holds NaN or infinity in float32"):
        model.generate(prompt="draw a cat", image=picture, draw=part != "clip", steps=1)


def test_a_value_beyond_the_precision_is_told_as_such(gill_folder: Path, tmp_path: Path) -> None:
    spoilt(gill_folder, tmp_path / "model", "language_model", 1e6)
    assert read_gill(folder=tmp_path / "model", dtype="bfloat16").generate(prompt="a cat", draw=False)
    with pytest.raises(ModelError, match=r"infinity in float16: .*mllm\.dtype is too narrow"):
        read_gill(folder=tmp_path / "model", dtype="float16")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_one_value_among_many(dtype: torch.dtype) -> None:
    good = {"a": torch.randn(3, 1000).to(dtype), "empty": torch.zeros(0), "ids": torch.arange(3)}
    require_finite(good)
    for place in (0, 1499, 2999):
        for value in (NAN, INF, -INF):
            bad = good["a"].clone()
            bad.view(-1)[place] = value
            with pytest.raises(ModelError, match=r"^b holds NaN or infinity"):
                require_finite(good | {"b": bad})
