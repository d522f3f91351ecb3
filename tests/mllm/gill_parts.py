"""What is known of the published GILL, and a tiny one of the same form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nam.mllm.gill import GILL
from nam.mllm.gill_published import read_published_gill
from nam.mllm.tiny_gill import write_tiny_published

IDS = list(range(50266, 50274))

#: `model_args.json` as published.
PUBLISHED_ARGS: dict[str, Any] = {
    "opt_version": "facebook/opt-6.7b",
    "freeze_lm": True,
    "visual_encoder": "openai/clip-vit-large-patch14",
    "freeze_vm": True,
    "n_visual_tokens": 4,
    "ret_emb_dim": 256,
    "gen_emb_dim": 768,
    "text_emb_layers": [-1],
    "text_fc_mode": "gill_mapper",
    "ret_text_fc_mode": "linear",
    "num_tokens": 8,
    "num_clip_tokens": 77,
    "share_ret_gen": True,
    "retrieval_token_idx": IDS,
    "gen_token_idx": IDS,
}


def published_shapes() -> dict[str, tuple[int, ...]]:
    """The 137 tensors of the published checkpoint, written down layer by layer."""
    shapes: dict[str, tuple[int, ...]] = {"logit_scale": (), "input_embeddings.weight": (8, 4096)}

    def pair(name: str, *shape: int) -> None:
        shapes[f"{name}.weight"] = shape
        shapes[f"{name}.bias"] = shape[:1]

    pair("visual_embeddings", 16384, 1024)
    pair("visual_fc", 256, 1024)
    pair("ret_text_hidden_fcs.0.model", 256, 4096)
    mapper = "gen_text_hidden_fcs.0"
    pair(f"{mapper}.fc", 512, 4096)
    pair(f"{mapper}.model", 768, 512)
    shapes[f"{mapper}.query_embs"] = (1, 77, 512)
    for half, attentions in (("encoder", ("self_attn",)), ("decoder", ("self_attn", "multihead_attn"))):
        pair(f"{mapper}.tfm.{half}.norm", 512)
        for layer in range(4):
            at = f"{mapper}.tfm.{half}.layers.{layer}"
            for attention in attentions:
                shapes[f"{at}.{attention}.in_proj_weight"] = (1536, 512)
                shapes[f"{at}.{attention}.in_proj_bias"] = (1536,)
                pair(f"{at}.{attention}.out_proj", 512, 512)
            pair(f"{at}.linear1", 2048, 512)
            pair(f"{at}.linear2", 512, 2048)
            for norm in range(1, len(attentions) + 2):
                pair(f"{at}.norm{norm}", 512)
    return shapes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_published(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="module")
def model(folder: Path) -> GILL:
    """No test may leave it changed."""
    return read_published_gill(checkpoint=folder, generator=folder / "sd", dtype="float32", steps=2)
