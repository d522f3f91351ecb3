"""Encoders of pictures for NExT-GPT: ImageBind's vision tower from its published file, or any CLIP tower.

ImageBind's vision tower (Girdhar et al. 2023, "ImageBind: One Embedding Space To Bind Them All") is a CLIP
tower with a projection, but for its names, and for patches of two frames: a still picture is both of them, so
that their weights add up.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nam.errors import ModelError
from nam.mllm.hub import model_folder, model_root, origin_of
from nam.mllm.parts import read_pretrained
from nam.mllm.tensors import read_torch_file, require_tensors

#: ImageBind (huge) has as many attention heads in its vision tower, whose file does not say so.
HEADS = 16

#: ImageBind's LayerNorms.
EPS = 1e-6

#: Kinds of inputs that the published file has encoders for; pictures are read, the others passed over.
STAGES = ("preprocessors", "trunks", "heads", "postprocessors")
OTHERS = ("text", "audio", "depth", "thermal", "imu")

#: Names of single tensors: ImageBind's, and those of transformers.
NAMES = {
    "preprocessors.vision.cls_token": "embeddings.class_embedding",
    "preprocessors.vision.rgbt_stem.proj.1.weight": "embeddings.patch_embedding.weight",
    "preprocessors.vision.pos_embedding_helper.pos_embed": "embeddings.position_embedding.weight",
    "trunks.vision.pre_transformer_layer.0.weight": "pre_layrnorm.weight",
    "trunks.vision.pre_transformer_layer.0.bias": "pre_layrnorm.bias",
    "heads.vision.0.weight": "post_layernorm.weight",
    "heads.vision.0.bias": "post_layernorm.bias",
}
PROJECTION = "heads.vision.2.weight"

#: The same of the parts of a block; queries, keys and values are one tensor in ImageBind.
BLOCKS = "trunks.vision.blocks."
PARTS = {"norm_1": "layer_norm1", "norm_2": "layer_norm2", "attn": "self_attn", "mlp": "mlp"}


class PictureEncoder(nn.Module):
    """A CLIP tower with projection, or ImageBind's, whose outputs have length 1.

    Args:
        tower: CLIPVisionModelWithProjection.
    """

    def __init__(self, tower: Any) -> None:
        super().__init__()
        self.tower = tower

    @property
    def width(self) -> int:
        """Of its output."""
        width: int = self.tower.config.projection_dim
        return width

    def forward(self, pixels: Tensor) -> Tensor:
        """Embeddings (N, E) of normalised pictures (N, 3, S, S)."""
        embeds: Tensor = self.tower(pixel_values=pixels).image_embeds
        return nn.functional.normalize(embeds, dim=-1)


def read_encoder(source: str | Path, width: int, dtype: torch.dtype) -> PictureEncoder:
    """The encoder in a file of ImageBind, or of a CLIP model by its folder or hub id.

    Args:
        source: `imagebind_huge.pth`, or a folder or hub id with a CLIP vision tower and its projection.
        width: What its output must have.
        dtype: What the weights become.

    Raises:
        ModelError: it is missing, damaged, incomplete or of another width.
    """
    from transformers import CLIPVisionModelWithProjection

    path = Path(source).expanduser()
    if path.is_file() or path.suffix in (".pth", ".pt"):
        encoder = PictureEncoder(tower_of(read_torch_file(path, mapped=True), source=str(path)).to(dtype))
    else:
        found = read_pretrained(CLIPVisionModelWithProjection, model_root(source), dtype)
        encoder = PictureEncoder(found)
    if encoder.width != width:
        raise ModelError(
            f"{source}: the encoder's output is {encoder.width} wide, the model's config says {width}"
        )
    return encoder


def encoder_origin(source: str | Path) -> Path | str:
    """Where `read_encoder` reads from: a file or folder, or a place on the hub."""
    path = Path(source).expanduser()
    return path if path.is_file() else origin_of(model_folder(source))


def tower_of(saved: Any, *, source: str) -> Any:
    """ImageBind's vision tower as transformers' CLIPVisionModelWithProjection, from its published tensors.

    Args:
        saved: What the file holds.
        source: What errors call it.

    Raises:
        ModelError: a tensor is missing, unknown or of another shape than the others say.
    """
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    if not isinstance(saved, Mapping) or not all(isinstance(value, Tensor) for value in saved.values()):
        raise ModelError(f"{source}: expected the tensors of ImageBind by their names")
    named = {key.removeprefix("modality_"): value for key, value in saved.items()}
    given = {key: value for key, value in named.items() if not _is_of_others(key)}
    stem, projection = given.get(_first("patch_embedding")), given.get(PROJECTION)
    places = given.get(_first("position_embedding"))
    if stem is None or stem.ndim != 5 or projection is None or places is None or places.ndim != 3:
        raise ModelError(f"{source} does not hold ImageBind's vision tower: no patches, places or projection")
    patch = stem.shape[-1]
    hidden = given.get(f"{BLOCKS}0.mlp.fc1.weight", stem)
    config = CLIPVisionConfig(
        hidden_size=len(stem),
        intermediate_size=len(hidden),
        projection_dim=len(projection),
        num_hidden_layers=len({key.split(".")[3] for key in given if key.startswith(BLOCKS)}),
        num_attention_heads=HEADS,
        image_size=round((places.shape[1] - 1) ** 0.5) * patch,
        patch_size=patch,
        hidden_act="gelu",
        layer_norm_eps=EPS,
    )
    with torch.device("meta"):
        tower = CLIPVisionModelWithProjection(config)
    _fill(tower, _renamed(given), source)
    return tower


def _fill(tower: Any, state: Mapping[str, Tensor], source: str) -> None:
    shapes = {key: value.shape for key, value in tower.state_dict().items()}
    require_tensors(state, shapes, whose=f"{source}: the encoder's weights")
    tower.load_state_dict(state, assign=True)
    embeddings = tower.vision_model.embeddings
    embeddings.position_ids = torch.arange(embeddings.num_positions)[
        None
    ]  # not saved, and made without memory


def _renamed(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by the names of transformers; unknown ones keep theirs."""
    state: dict[str, Tensor] = {}
    for key, value in given.items():
        if key == PROJECTION:
            state["visual_projection.weight"] = value
        elif key in NAMES:
            state[f"vision_model.{NAMES[key]}"] = _shaped(NAMES[key], value)
        elif key.startswith(BLOCKS):
            state |= _of_block(key.removeprefix(BLOCKS), value)
        else:
            state[key] = value
    return state


def _shaped(name: str, value: Tensor) -> Tensor:
    match name:
        case "embeddings.patch_embedding.weight":
            # A still picture is every frame.
            return value.sum(2, dtype=torch.promote_types(value.dtype, torch.float32))
        case "embeddings.class_embedding":
            return value.flatten()
        case "embeddings.position_embedding.weight":
            return value[0]
    return value


def _of_block(name: str, value: Tensor) -> dict[str, Tensor]:
    """A tensor of a block, "3.attn.in_proj_weight", as one or three of transformers'."""
    layer, _, rest = name.partition(".")
    part, _, leaf = rest.partition(".")
    prefix = f"vision_model.encoder.layers.{layer}.{PARTS.get(part, part)}"
    if leaf.startswith("in_proj_"):
        kind = leaf.removeprefix("in_proj_")
        return {
            f"{prefix}.{one}_proj.{kind}": third for one, third in zip("qkv", value.chunk(3), strict=True)
        }
    return {f"{prefix}.{leaf}": value}


def _first(name: str) -> str:
    return next(ours for ours, theirs in NAMES.items() if name in theirs)


def _is_of_others(key: str) -> bool:
    stage, _, rest = key.partition(".")
    return stage in STAGES and rest.partition(".")[0] in OTHERS
