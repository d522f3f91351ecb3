"""ImageBind's vision tower against the blocks of its paper, computed one by one; and other encoders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nam.errors import ModelError
from nam.mllm.imagebind import EPS, HEADS, read_encoder
from nam.mllm.tiny_nextgpt import BLOCKS, CONFIG, PATCH, TOWER, imagebind_tensors

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return imagebind_tensors()


def by_hand(state: State, pixels: Tensor) -> Tensor:
    """Patches of two equal frames, a class token, places, blocks, the class token's norm and projection."""
    weights = {key.removeprefix("modality_"): value.double() for key, value in state.items()}

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (TOWER,), weights[f"{name}.weight"], weights[f"{name}.bias"], EPS)

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    frames = pixels.double()[:, :, None].repeat(1, 1, 2, 1, 1)
    stem = weights["preprocessors.vision.rgbt_stem.proj.1.weight"]
    patches = F.conv3d(frames, stem, stride=(2, PATCH, PATCH)).flatten(2).mT
    begin = weights["preprocessors.vision.cls_token"].expand(len(pixels), -1, -1)
    x = torch.cat([begin, patches], dim=1) + weights["preprocessors.vision.pos_embedding_helper.pos_embed"]
    x = norm(x, "trunks.vision.pre_transformer_layer.0")
    for index in range(BLOCKS):
        block = f"trunks.vision.blocks.{index}"
        attention = nn.MultiheadAttention(TOWER, HEADS, batch_first=True).double()
        mine = {k.removeprefix(f"{block}.attn."): v for k, v in weights.items() if f"{block}.attn." in k}
        attention.load_state_dict(mine)
        read = norm(x, f"{block}.norm_1")
        x = x + attention(read, read, read)[0]
        x = x + linear(F.gelu(linear(norm(x, f"{block}.norm_2"), f"{block}.mlp.fc1")), f"{block}.mlp.fc2")
    out = F.linear(norm(x, "heads.vision.0")[:, 0], weights["heads.vision.2.weight"])
    return out / out.square().sum(-1, keepdim=True).sqrt()


def test_the_tower_computes_what_imagebind_does(state: State, tmp_path: Path) -> None:
    torch.save({key: value.double() for key, value in state.items()}, tmp_path / "imagebind.pth")
    pixels = torch.randn(3, 3, CONFIG.image_size, CONFIG.image_size)
    encoder = read_encoder(tmp_path / "imagebind.pth", CONFIG.vision_dim, torch.float64).eval()
    with torch.no_grad():
        expected = by_hand(state, pixels)
        torch.testing.assert_close(encoder(pixels.double()), expected, atol=1e-9, rtol=1e-9)
    assert float(expected.std(0).mean()) > 1e-3
    half = read_encoder(str(tmp_path / "imagebind.pth"), CONFIG.vision_dim, torch.bfloat16)
    assert {value.dtype for value in half.parameters()} == {torch.bfloat16}


def without(part: str) -> Callable[[State], State]:
    return lambda state: {key: value for key, value in state.items() if part not in key}


def changed(name: str, value: Tensor) -> Callable[[State], State]:
    return lambda state: {**state, name: value}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("vision.rgbt_stem"), "no patches, places or projection"),
        (without("blocks.0.norm_2.bias"), r"lack .*layer_norm2.bias \(1 tensors\)"),
        (
            changed("modality_trunks.vision.more", torch.ones(2)),
            "have unknown trunks.vision.more",
        ),
        (
            changed("modality_heads.vision.0.bias", torch.ones(3)),
            r"post_layernorm.bias should be \(32,\) by the model's config, got \(3,\)",
        ),
        (lambda state: {"epoch": 3}, "expected the tensors of ImageBind"),
    ],
)
def test_files_that_do_not_fit_are_refused(
    state: State, tmp_path: Path, change: Callable[[State], State], message: str
) -> None:
    torch.save(change(state), tmp_path / "imagebind.pth")
    with pytest.raises(ModelError, match=message):
        read_encoder(tmp_path / "imagebind.pth", CONFIG.vision_dim, torch.float32)


def test_the_width_and_the_file_must_be_there(state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "imagebind.pth")
    with pytest.raises(ModelError, match="output is 16 wide, the model's config says 17"):
        read_encoder(tmp_path / "imagebind.pth", 17, torch.float32)
    with pytest.raises(ModelError, match=r"there is no file .*none.pth"):
        read_encoder(tmp_path / "none.pth", 16, torch.float32)


def test_a_clip_tower_will_do(tmp_path: Path) -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
        projection_dim=12,
    )
    tower = CLIPVisionModelWithProjection(config).eval()
    tower.save_pretrained(tmp_path)
    pixels = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = tower(pixel_values=pixels).image_embeds
        seen = read_encoder(tmp_path, 12, torch.float32).eval()(pixels)
    torch.testing.assert_close(seen, expected / expected.norm(dim=-1, keepdim=True))
