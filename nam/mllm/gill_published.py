"""GILL as it was published: `pretrained_ckpt.pth.tar` and `model_args.json`, beside parts of the hub.

Koh et al. 2023, "Generating Images with Multimodal Language Models"; Apache-2.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nam.checks import whole
from nam.errors import ConfigError, ModelError
from nam.mllm.config import CLIP_MEAN, CLIP_STD, GillConfig, read_json, with_drawing
from nam.mllm.device_map import Device, MaxMemory, check_device
from nam.mllm.diffusion import Diffusion
from nam.mllm.gill import GILL
from nam.mllm.gill_folder import read_vision
from nam.mllm.hub import model_folder, model_root, origin_of
from nam.mllm.parts import LazyParts, freeze, read_pretrained, read_tokenizer
from nam.mllm.prompts import PromptCodec
from nam.mllm.spread import placed
from nam.mllm.tensors import dtype_named, read_torch_file

#: The files of a published checkpoint.
ARGS_FILE, CHECKPOINT_FILE = "model_args.json", "pretrained_ckpt.pth.tar"

#: What the published code fixes, and model_args.json does not say; its keys change it.
FIXED = {"mapper_dim": 512, "mapper_layers": 4, "mapper_heads": 4, "vision_dim": 1024, "image_size": 224}

#: Settings that other code would be needed for, and what they must be.
REQUIRED = {
    "text_emb_layers": [-1],
    "text_fc_mode": "gill_mapper",
    "ret_text_fc_mode": "linear",
    "share_ret_gen": True,
}


def read_published_gill(
    *,
    checkpoint: str | Path,
    language_model: str | Path | None = None,
    vision: str | Path | None = None,
    generator: str | Path = "stable-diffusion-v1-5/stable-diffusion-v1-5",
    dtype: str = "bfloat16",
    device: Device = "cpu",
    max_memory: MaxMemory | None = None,
    generator_device: str | None = None,
    sampler: str | None = None,
    steps: int | None = None,
    guidance: float | None = None,
) -> GILL:
    """A frozen GILL from its published checkpoint; vision tower and generator are read when first used.

    Args:
        checkpoint: Folder with `pretrained_ckpt.pth.tar` and `model_args.json`.
        language_model, vision: Folder or hub id; None for what `model_args.json` names.
        generator: Folder or hub id of a Stable Diffusion 1.x pipeline.
        dtype: Precision of every part, whatever the files hold.
        device: Where every part goes; the layers of the language model may be spread (`nam.mllm.spread`).
        max_memory: What the language model may take of each card, with `device="auto"`.
        generator_device: Where the picture generator stays instead, whatever happens to the rest.
        sampler, steps, guidance: Of a picture; None for the generator's sampler, 50 steps, 7.5.

    Raises:
        ModelError: a part is missing, damaged, of other sizes, or does not fit the checkpoint.
        ConfigError: an unknown dtype, device or steps.
    """
    from transformers import AutoModelForCausalLM

    precision = dtype_named(dtype)
    check_devices(device, max_memory, generator_device)
    folder = Path(checkpoint).expanduser()
    args = read_json(folder / ARGS_FILE)
    config = with_drawing(published_config(args), sampler=sampler, steps=steps, guidance=guidance)
    state = read_checkpoint(folder / CHECKPOINT_FILE)  # before the large parts are read
    root = model_root(language_model or _named(args, "opt_version"))
    tower = vision or _named(args, "visual_encoder")
    codec = PromptCodec(read_tokenizer(root), config)
    check_ids(codec, args)
    model = GILL(
        name="gill",
        config=config,
        language_model=read_pretrained(AutoModelForCausalLM, root, precision, torch_files=True),
        codec=codec,
        vision=LazyParts(
            {"vision": lambda kind: read_vision(model_root(tower), config.vision_dim, kind)},
            origins={"vision": origin_of(model_folder(tower))},
        ),
        diffusion=Diffusion.from_folder(config, model_folder(generator), device=generator_device),
    )
    try:
        model.load_gill_state(state)
    except ModelError as error:
        raise ModelError(f"{folder / CHECKPOINT_FILE}: {error}") from error
    freeze(placed(model, device=device, max_memory=max_memory, dtype=precision))
    return model


def published_config(args: Mapping[str, Any]) -> GillConfig:
    """The sizes in `model_args.json`, with the conventions of the published code.

    Raises:
        ModelError: a size is missing, or a setting needs code that is not here.
    """
    for key, needed in REQUIRED.items():
        if args.get(key) != needed:
            raise ModelError(f"{ARGS_FILE}: {key} must be {needed!r}, got {args.get(key)!r}")
    tokens = "num_tokens" if "num_tokens" in args else "num_gen_tokens"  # the file has had both names
    names = ("n_visual_tokens", "num_clip_tokens", "gen_emb_dim", "ret_emb_dim")
    sizes: dict[str, Any] = {name: _size(args, name) for name in names}
    sizes |= {name: _size({**FIXED, **args}, name) for name in FIXED}
    return GillConfig(
        num_img_tokens=_size(args, tokens),
        **sizes,
        image_fit="crop",
        image_mean=CLIP_MEAN,
        image_std=CLIP_STD,
        steps=50,
        guidance=7.5,
        text_tower="text_encoder",
        text_tokenizer="tokenizer",
        mask_captions=False,
        extra_tokens=("<|image|>",),
        bos_first=False,
        end_words=("\n",),
        prompt_ends="",
        caption_prompt="A picture of",
    )


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a published checkpoint; nothing but tensors is read from the file.

    Raises:
        ModelError: the file is missing, damaged, or holds something else.
    """
    saved = read_torch_file(path)
    state = saved.get("state_dict") if isinstance(saved, dict) else None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(f"{path}: expected tensors under 'state_dict'")
    return dict(state)


def check_ids(codec: PromptCodec, args: Mapping[str, Any]) -> None:
    """Check that the [IMG] tokens have the ids that the checkpoint was trained with.

    Raises:
        ModelError: they have not.
    """
    for key in ("gen_token_idx", "retrieval_token_idx"):
        if key in args and tuple(args[key]) != codec.img_ids:
            raise ModelError(
                f"{ARGS_FILE}: {key} is {args[key]}, the tokenizer of the language model gives "
                f"{list(codec.img_ids)}: it is not the one that the checkpoint was trained with"
            )


def _size(args: Mapping[str, Any], name: str) -> int:
    if name not in args:
        raise ModelError(f"{ARGS_FILE} has no {name}")
    return whole(f"{ARGS_FILE}: {name}", args[name], least=1, error=ModelError)


def _named(args: Mapping[str, Any], key: str) -> str:
    found = args.get(key)
    if not isinstance(found, str):
        raise ModelError(f"{ARGS_FILE}: {key} should name a model of the hub or a folder, got {found!r}")
    return found


def check_devices(device: Device, max_memory: MaxMemory | None, generator_device: str | None) -> None:
    """Check what the language model and the picture generator are to be put on.

    Raises:
        ConfigError: a device cannot be used, or the settings do not go together.
    """
    check_device(device, max_memory=max_memory)
    if generator_device is not None:
        try:
            torch.empty(0, device=generator_device)
        except (RuntimeError, AssertionError) as error:
            raise ConfigError(
                f"mllm.generator_device={generator_device!r} cannot be used: {error}"
            ) from error
