"""Anole's picture decoder: read from among Chameleon's weights, and computing what those say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import conv2d, group_norm, interpolate

import nam
from nam.errors import ModelError
from nam.mllm.chameleon import DECODER, Chameleon, build_decoder, read_chameleon
from nam.mllm.tiny_unified import write_tiny_unified


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_unified(tmp_path_factory.mktemp("anole") / "tiny_anole", family="chameleon")


class Painted:
    """A VQGAN decoder (Esser et al. 2021) by its tensors alone, levels counted from the finest."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = {key: value.double() for key, value in state.items()}

    def conv(self, x: Tensor, name: str) -> Tensor:
        weight = self.state[f"{name}.weight"]
        return conv2d(x, weight, self.state[f"{name}.bias"], padding=weight.shape[-1] // 2)

    def norm(self, x: Tensor, name: str) -> Tensor:
        return group_norm(x, 32, self.state[f"{name}.weight"], self.state[f"{name}.bias"], eps=1e-6)

    def block(self, x: Tensor, name: str) -> Tensor:
        out = x
        for part in ("1", "2"):
            out = self.norm(out, f"{name}.norm{part}")
            out = self.conv(out * out.sigmoid(), f"{name}.conv{part}")
        return out + (
            self.conv(x, f"{name}.nin_shortcut") if f"{name}.nin_shortcut.weight" in self.state else x
        )

    def attention(self, x: Tensor, name: str) -> Tensor:
        flat = self.norm(x, f"{name}.norm")
        q, k, v = (self.conv(flat, f"{name}.{part}").flatten(2) for part in "qkv")
        weights = (q.transpose(1, 2) @ k / q.shape[1] ** 0.5).softmax(-1)
        return x + self.conv((v @ weights.transpose(1, 2)).view_as(x), f"{name}.proj_out")

    def __call__(self, x: Tensor) -> Tensor:
        x = self.block(self.conv(x.double(), "conv_in"), "mid.block_1")
        x = self.block(self.attention(x, "mid.attn_1"), "mid.block_2")
        for level in (3, 2, 1, 0):
            for place in range(2):
                x = self.block(x, f"up.{level}.block.{place}")
            if level:
                x = self.conv(interpolate(x, scale_factor=2), f"up.{level}.upsample.conv")
        x = self.norm(x, "norm_out")
        return self.conv(x * x.sigmoid(), "conv_out")


def test_a_picture_is_what_the_tensors_of_the_decoder_say(folder: Path) -> None:
    model = read_chameleon(id=folder, dtype="float32")
    drawn = model.generate("a cat", draw=True)
    tensors = load_file(folder / "model.safetensors")
    inside = {
        k.removeprefix("model.vqmodel."): v for k, v in tensors.items() if k.startswith("model.vqmodel.")
    }
    code_of = model.language_model.model.vocabulary_mapping.bpe2img
    codes = [code_of[token] for token in drawn.token_ids[-16:]]
    features = inside["quantize.embedding.weight"][codes].T.reshape(1, -1, 4, 4)
    features = conv2d(features, inside["post_quant_conv.weight"], inside["post_quant_conv.bias"])
    decoder = {k.removeprefix("decoder."): v for k, v in inside.items() if k.startswith("decoder.")}
    painted = Painted(decoder)(features)[0].permute(1, 2, 0)
    # The image processor maps 0..255 to -1..1 by 0.0078 a level.
    levels = ((painted + 1) / 0.0078).clamp(0, 255).numpy()
    assert np.abs(np.asarray(drawn.image, dtype=float) - levels).max() <= 1
    assert levels.std() > 5


def test_a_folder_is_read_by_its_path(folder: Path) -> None:
    model = nam.load(folder, dtype="float32")
    assert isinstance(model, Chameleon)
    assert model.name == "tiny_anole"
    assert (model.sampling.guidance, model.sampling.temperature, model.sampling.top_p) == (3.0, 0.7, 0.9)


def test_in_half_precision_the_same_tokens_give_the_same_picture(folder: Path) -> None:
    whole, half = read_chameleon(id=folder, dtype="float32"), read_chameleon(id=folder, dtype="bfloat16")
    codes = torch.arange(16).view(1, 4, 4)
    assert half.dtype == torch.bfloat16
    with torch.no_grad():
        torch.testing.assert_close(half.paint(codes), whole.paint(codes), atol=0.05, rtol=0)
    assert half.generate("a cat", draw=True).image is not None


def test_weights_without_a_decoder_or_with_another_are_refused(folder: Path, tmp_path: Path) -> None:
    def with_tensors(name: str, tensors: dict[str, Tensor]) -> Path:
        other = tmp_path / name
        other.mkdir()
        for file in folder.iterdir():
            if file.suffix != ".safetensors":
                (other / file.name).write_bytes(file.read_bytes())
        save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
        return other

    tensors = load_file(folder / "model.safetensors")
    words = {key: value for key, value in tensors.items() if not key.startswith(DECODER)}
    with pytest.raises(
        ModelError, match=r"no picture decoder .* Chameleon's own weights are for words alone"
    ):
        read_chameleon(id=with_tensors("words", words), dtype="float32")
    less = {key: value for key, value in tensors.items() if key != f"{DECODER}conv_out.bias"}
    with pytest.raises(ModelError, match=r"the picture decoder in .* is of another kind"):
        read_chameleon(id=with_tensors("less", less), dtype="float32")
    spoilt = tensors | {f"{DECODER}conv_out.bias": torch.tensor([0.0, float("nan"), 0.0])}
    with pytest.raises(ModelError, match=r"decoder\.conv_out\.bias holds NaN"):
        read_chameleon(id=with_tensors("spoilt", spoilt), dtype="float32")


def test_attention_between_levels_is_refused() -> None:
    from transformers import ChameleonVQVAEConfig

    with pytest.raises(ModelError, match=r"attention at \[16\] is not supported"):
        build_decoder(ChameleonVQVAEConfig(attn_resolutions=[16]))
