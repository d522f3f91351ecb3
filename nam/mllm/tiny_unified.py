"""Tiny RANDOM unified-token models, written to a folder and read like any other; see `nam.mllm.tiny_vlm`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nam.errors import ConfigError, nearest
from nam.mllm.chameleon import DECODER, build_decoder, read_chameleon, turned
from nam.mllm.device_map import Device
from nam.mllm.emu3 import END_OF_ROW, read_emu3
from nam.mllm.janus import read_janus
from nam.mllm.tiny_families import HIDDEN, SQUARE, TEXT, VISION, Family
from nam.mllm.tiny_vlm import write_tiny
from nam.mllm.unified import Unified

#: Different picture tokens.
CODES = 24

#: A picture's decoder: four sizes, 8 pixels a token each way.
LEVELS = [1, 1, 1, 1]
VQ: dict[str, Any] = {
    "base_channels": 32,
    "channel_multiplier": LEVELS,
    "num_res_blocks": 1,
    "latent_channels": 16,
    "embed_dim": 8,
}
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}

EMU3_CODES = tuple(f"<|visual token {code:06d}|>" for code in range(CODES))
EMU3_NAMES = {
    "image_token": "<image>",
    "boi_token": "<|image start|>",
    "eoi_token": "<|image end|>",
    "image_wrapper_token": "<|image token|>",
    "eof_token": "<|extra_201|>",
}


def _chameleon_code(code: int) -> str:
    return "IMGIMG" + "".join(chr(ord("A") + int(digit)) for digit in str(code)) + "Z"


CHAMELEON_CODES = tuple(map(_chameleon_code, range(CODES)))
CHAMELEON_NAMES = {
    "image_token": "<image>",
    "boi_token": "<racm3:break>",
    "eoi_token": "<eoss>",
    "sep_token": "<reserved08706>",
}


def _janus(id_of: Callable[[str], int]) -> dict[str, Any]:
    head = {"num_embeddings": CODES, "image_token_embed_dim": HIDDEN, "projection_dim": HIDDEN}
    sight = {key: value for key, value in VISION.items() if key != "intermediate_size"}
    return {
        "text_config": {"model_type": "llama", **TEXT},
        "vision_config": {**sight, "projection_dim": HIDDEN, "num_image_tokens": 16},
        "vq_config": {**VQ, **head, "initializer_range": 0.3},
        "image_token_id": id_of("<image_placeholder>"),
    }


def _emu3(id_of: Callable[[str], int]) -> dict[str, Any]:
    vq = {**VQ, "codebook_size": CODES, "embed_dim": 4, "latent_channels": 4, "hidden_size": 32}
    return {
        "text_config": {**TEXT, "attention_dropout": 0.0},
        "vq_config": {**vq, "attn_resolutions": [3]},
        "vocabulary_map": {name: id_of(name) for name in ("<image>", END_OF_ROW, *EMU3_CODES)},
    }


def _chameleon(id_of: Callable[[str], int]) -> dict[str, Any]:
    return {
        **TEXT,
        "vq_config": {**VQ, "num_embeddings": CODES, "resolution": 32, "initializer_range": 0.3},
        "vocabulary_map": {name: id_of(name) for name in ("<image>", *CHAMELEON_CODES)},
    }


#: By name: how a tiny model is made, what reads it, and what it is read with.
UNIFIED: dict[str, tuple[Family, Callable[..., Unified], dict[str, Any]]] = {
    "janus": (
        Family(
            model="JanusForConditionalGeneration",
            config=_janus,
            tokens=("<image_placeholder>", "<begin_of_image>", "<end_of_image>"),
            names={
                "image_token": "<image_placeholder>",
                "boi_token": "<begin_of_image>",
                "eoi_token": "<end_of_image>",
            },
            picture="<image_placeholder>",
            images=("JanusImageProcessorPil", {"size": SQUARE, **HALF}),
            processor=("JanusProcessor", {"num_image_tokens": 16}),
        ),
        read_janus,
        {},
    ),
    "emu3": (
        Family(
            model="Emu3ForConditionalGeneration",
            config=_emu3,
            tokens=(*EMU3_NAMES.values(), END_OF_ROW, "4*4", *EMU3_CODES),
            names=EMU3_NAMES,
            picture="<image>",
            images=("Emu3ImageProcessor", {"min_pixels": 32 * 32, "max_pixels": 32 * 32, **HALF}),
            processor=("Emu3Processor", {}),
        ),
        read_emu3,
        {"side": 32, "positive": " at night", "negative": "nothing", "top_k": 16},
    ),
    "chameleon": (
        Family(
            model="ChameleonForConditionalGeneration",
            config=_chameleon,
            tokens=(*CHAMELEON_NAMES.values(), *CHAMELEON_CODES),
            names=CHAMELEON_NAMES,
            picture="<image>",
            images=("ChameleonImageProcessorPil", {"size": {"shortest_edge": 32}, "crop_size": SQUARE}),
            processor=("ChameleonProcessor", {"image_seq_length": 16}),
        ),
        read_chameleon,
        {},
    ),
}


def read_tiny_unified(
    *,
    family: str,
    seed: int = 0,
    dtype: str = "float32",
    device: Device = "cpu",
    guidance: float = 3.0,
    temperature: float = 1.0,
) -> Unified:
    """A tiny random model of a family, through a folder that is gone afterwards; pictures of 32 x 32 pixels.

    Args:
        family: One of `UNIFIED`.
        seed: Of its weights.
        dtype, device: As in `nam.mllm.vlm_folder.read_vlm`.
        guidance, temperature: Of `nam.mllm.picture_tokens.Sampling`.

    Raises:
        ConfigError: an unknown family, dtype or device, or a setting of pictures out of range.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = write_tiny_unified(Path(folder) / f"tiny_{family}", family=family, seed=seed)
        settings = {"dtype": dtype, "device": device, "caption_prompt": "a picture of", **UNIFIED[family][2]}
        return UNIFIED[family][1](id=path, guidance=guidance, temperature=temperature, **settings)


def write_tiny_unified(folder: Path, *, family: str, seed: int = 0) -> Path:
    """Write a tiny random model in the layout of the hub, and return the folder.

    Raises:
        ConfigError: an unknown family.
    """
    if family not in UNIFIED:
        raise ConfigError(f"mllm.family={family!r} is unknown ({nearest(str(family), UNIFIED)})")
    write_tiny(folder, UNIFIED[family][0], seed=seed)
    if family == "chameleon":
        _add_decoder(folder, seed)
    return folder


def _add_decoder(folder: Path, seed: int) -> None:
    """A picture's decoder among the weights, as in Anole's."""
    from safetensors.torch import load_file, save_file
    from transformers import AutoConfig

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        decoder = build_decoder(AutoConfig.from_pretrained(folder).vq_config)
    file = folder / "model.safetensors"
    state = load_file(file) | {
        f"{DECODER}{key}": value for key, value in turned(decoder.state_dict()).items()
    }
    save_file({key: value.contiguous() for key, value in state.items()}, file, metadata={"format": "pt"})
