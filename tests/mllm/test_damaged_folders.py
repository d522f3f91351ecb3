"""Folders of models that do not hold what their config says: the tensor or token that is wrong is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import nam
from nam.errors import InputError, ModelError
from nam.mllm.tiny_unified import write_tiny_unified
from nam.mllm.tiny_vlm import write_tiny_vlm


def change_tensor(folder: Path, end: str, tensor: torch.Tensor) -> None:
    """Put another tensor in the place of the one whose name ends so."""
    file = folder / "model.safetensors"
    state = load_file(file)
    (name,) = [key for key in state if key.endswith(end)]
    save_file(state | {name: tensor}, file, metadata={"format": "pt"})


def forget(folder: Path, token: str) -> None:
    """Take a token out of the config's vocabulary map."""
    file = folder / "config.json"
    config = json.loads(file.read_text())
    del config["vocabulary_map"][token]
    file.write_text(json.dumps(config))


@pytest.mark.parametrize("family", ["llama", "llava", "janus"])
def test_a_tensor_of_another_shape_is_named_with_both_shapes(family: str, tmp_path: Path) -> None:
    write = write_tiny_unified if family == "janus" else write_tiny_vlm
    folder = write(tmp_path / "model", family=family)
    change_tensor(folder, "layers.1.mlp.down_proj.weight", torch.zeros(3, 5))
    words = r"keys of another shape, first \S+\.layers\.1\.mlp\.down_proj\.weight, which is \(3, 5\) and not"
    with pytest.raises(ModelError, match=rf"{words} \(32, 48\)"):
        nam.load(folder)


@pytest.mark.parametrize("family", ["llava", "chameleon"])
def test_tensors_without_a_place_are_told(family: str, tmp_path: Path, told: Callable[[], list[str]]) -> None:
    """Anole's decoder of pictures has none in transformers' class, and is read all the same."""
    write = write_tiny_unified if family == "chameleon" else write_tiny_vlm
    folder = write(tmp_path / "model", family=family)
    nam.load(folder, dtype="float32")
    assert not told()
    file = folder / "model.safetensors"
    save_file(load_file(file) | {"lora.a": torch.zeros(2)}, file, metadata={"format": "pt"})
    nam.load(folder, dtype="float32")
    (line,) = told()
    assert "model: 1 tensors have no place in " in line
    assert line.endswith("and are passed over, first lora.a")


@pytest.mark.parametrize(
    ("family", "token", "words"),
    [
        ("emu3", "<|extra_200|>", r"model: vocabulary_map in config.json has no <\|extra_200\|>"),
        ("emu3", "<|visual token 000003|>", "23 of 24 picture tokens; the first that is missing is 3$"),
        (
            "emu3",
            "<|visual token 000023|>",
            "23 of 24 picture tokens; the first that is missing is 23$",
        ),
        ("chameleon", "IMGIMGBCZ", "23 of 24 picture tokens; the first that is missing is 12$"),
    ],
)
def test_a_picture_token_that_the_config_forgot_is_named(
    family: str, token: str, words: str, tmp_path: Path
) -> None:
    folder = write_tiny_unified(tmp_path / "model", family=family)
    forget(folder, token)
    with pytest.raises(ModelError, match=words):
        nam.load(folder)


def test_a_picture_that_no_context_holds_is_told_as_such(tmp_path: Path) -> None:
    model = nam.load(write_tiny_unified(tmp_path / "model", family="emu3"))  # 720 pixels a side, as published
    with pytest.raises(InputError, match="a picture of 8189 tokens does not fit into the context of 256"):
        model.generate("a cat", draw=True)
