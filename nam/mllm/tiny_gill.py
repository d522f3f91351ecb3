"""A tiny RANDOM GILL in the files of the published one: checkpoint, OPT, CLIP and Stable Diffusion.

Its answers mean nothing, but every path through the code is the full-size model's. It speaks the words of the
scenes.
"""

from __future__ import annotations

import json
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nam.mllm.device_map import Device
from nam.mllm.diffusion import Diffusion
from nam.mllm.gill import GILL
from nam.mllm.gill_published import ARGS_FILE, CHECKPOINT_FILE, published_config, read_published_gill
from nam.mllm.parts import LazyParts, quiet_hub, read_tokenizer
from nam.mllm.prompts import PromptCodec

#: Ids 0 to 3 of OPT's tokenizer.
OPT_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")

#: OPT's embedding has as many rows more than its tokenizer has tokens.
SPARE_ROWS = 7

#: What model_args.json says; beside it, sizes that the published one leaves to the code.
ARGS: dict[str, Any] = {
    "n_visual_tokens": 4,
    "num_tokens": 8,
    "num_clip_tokens": 77,
    "gen_emb_dim": 16,
    "ret_emb_dim": 8,
    "text_emb_layers": [-1],
    "text_fc_mode": "gill_mapper",
    "ret_text_fc_mode": "linear",
    "share_ret_gen": True,
    "mapper_dim": 16,
    "mapper_heads": 2,
    "vision_dim": 16,
    "image_size": 32,
}

#: The sizes of its OPT, but for the vocabulary, and of its CLIP vision tower, by the names of transformers.
OPT_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "word_embed_proj_dim": 32,
    "ffn_dim": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 96,
    "init_std": 0.3,
}
VISION_SIZES: dict[str, Any] = {
    "hidden_size": ARGS["vision_dim"],
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": ARGS["image_size"],
    "patch_size": 8,
}


def read_tiny_gill(*, seed: int = 0, dtype: str = "float32", device: Device = "cpu", steps: int = 4) -> GILL:
    """A tiny random GILL, read from published files in a folder that is gone when the model is.

    Args:
        seed: Of its weights.
        dtype, device, steps: As in `read_published_gill`.

    Raises:
        ConfigError: an unknown dtype or device, or a wrong number of steps.
    """
    folder = tempfile.TemporaryDirectory()
    where = write_tiny_published(Path(folder.name), seed=seed)
    model = read_published_gill(
        checkpoint=where, generator=where / "sd", dtype=dtype, device=device, steps=steps
    )
    model.name = "gill_tiny_random"
    weakref.finalize(model, folder.cleanup)  # vision tower and generator are read when first used
    return model


def write_tiny_published(folder: Path, *, seed: int = 0) -> Path:
    """Write everything that a published GILL is made of into a folder, and return it."""
    import diffusers  # noqa: F401 - quiet_hub silences what has been imported
    import transformers  # noqa: F401

    with torch.random.fork_rng(devices=[]), quiet_hub():
        torch.manual_seed(seed)
        language_model = write_opt(folder / "opt")
        _write_vision(folder / "clip")
        write_generator(folder / "sd", width=ARGS["gen_emb_dim"])
        _write_checkpoint(folder, language_model)
    return folder


def write_opt(folder: Path, **changes: Any) -> Any:
    """Write a tiny OPT as the hub has it, in torch's own format; returns the model."""
    from transformers import OPTConfig, OPTForCausalLM

    from nam.world.vocabulary import vocabulary

    size = write_opt_tokenizer(folder, vocabulary())
    settings = {**OPT_SIZES, "vocab_size": size + SPARE_ROWS, **changes}
    model = OPTForCausalLM(OPTConfig(**settings))
    _favour_words(model, folder)
    model.config.architectures = ["OPTForCausalLM"]
    model.config.save_pretrained(folder)
    state = {key: value.half() for key, value in model.state_dict().items() if key != "lm_head.weight"}
    torch.save(state, folder / "pytorch_model.bin")
    return model


def write_opt_tokenizer(folder: Path, words: Sequence[str], *, size: int | None = None) -> int:
    """Write a tokenizer in OPT's files: bytes, and each word behind a blank as one token.

    Args:
        folder: Made if need be.
        words: Of ASCII letters.
        size: Number of tokens; unused ones fill it up.

    Returns:
        The number of tokens.
    """
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    blank = bytes_to_unicode()[ord(" ")]
    tokens = dict.fromkeys([*OPT_SPECIAL, *bytes_to_unicode().values()])
    merges: dict[str, None] = {}
    for word in sorted(words):
        if not word.isascii() or not word.isalpha():
            continue
        for end in range(1, len(word) + 1):
            merges[f"{blank}{word[: end - 1]} {word[end - 1]}"] = None
            tokens[blank + word[:end]] = None
    spare = 0 if size is None else size - len(tokens)
    vocab = {token: id_ for id_, token in enumerate([*tokens, *(f"madeupword{i:05}" for i in range(spare))])}
    special = {"__type": "AddedToken", "content": "</s>", "normalized": True}
    settings = {
        "tokenizer_class": "GPT2Tokenizer",
        "errors": "replace",
        "unk_token": special,
        "bos_token": special,
        "eos_token": special,
        "pad_token": "<pad>",
        "add_prefix_space": False,
        "add_bos_token": True,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return len(vocab)


@torch.no_grad()
def _favour_words(model: Any, folder: Path) -> None:
    """Make things of the scenes likelier than bytes and beginnings of words, so that answers hold some."""
    from nam.world.scene import NOUNS

    found = read_tokenizer(folder)([f" {noun}" for noun in NOUNS], add_special_tokens=False)["input_ids"]
    model.get_input_embeddings().weight[[ids[0] for ids in found]] *= 2.0


def _write_vision(folder: Path) -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    CLIPVisionModel(CLIPVisionConfig(**VISION_SIZES)).half().save_pretrained(folder)


def write_generator(folder: Path, *, width: int) -> None:
    """Write a tiny Stable Diffusion whose conditioning is so wide, as the hub has it."""
    from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from nam.world.tokenizer import TEXT_END, TEXT_START, build_tokenizer

    unet: Any = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=width,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    vae: Any = AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        norm_num_groups=4,
    )
    for model, name in ((unet, "unet"), (vae, "vae")):
        nn.Module.half(model)  # the classes' own half() warns without cause
        model.save_pretrained(folder / name)
    scheduler: Any = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    scheduler.save_pretrained(folder / "scheduler")
    tokenizer: Any = build_tokenizer()
    start, end = tokenizer.convert_tokens_to_ids([TEXT_START, TEXT_END])
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=start,
        eos_token_id=end,
        pad_token_id=tokenizer.pad_token_id,
    )
    CLIPTextModel(config).half().save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")


@torch.no_grad()
def _write_checkpoint(folder: Path, language_model: Any) -> None:
    """The tensors that GILL trains, and its settings; pictures depend on what was asked."""
    config = published_config(ARGS)
    model = GILL(
        name=folder.name,
        config=config,
        language_model=language_model,
        codec=PromptCodec(read_tokenizer(folder / "opt"), config),
        vision=LazyParts({}),
        diffusion=Diffusion.from_folder(config, folder / "sd"),
    )
    for module in model.mapper.modules():
        if isinstance(module, nn.Linear):
            module.weight.mul_(2.0)
    language_model.get_input_embeddings().weight[list(model.codec.img_ids)] *= 0.5
    state = {f"module.model.{key}": value.half() for key, value in model.gill_state_dict().items()}
    torch.save({"state_dict": state}, folder / CHECKPOINT_FILE)
    ids = list(model.codec.img_ids)
    args = {
        **{"opt_version": str(folder / "opt"), "visual_encoder": str(folder / "clip")},
        **ARGS,
        **{"retrieval_token_idx": ids, "gen_token_idx": ids},
    }
    (folder / ARGS_FILE).write_text(json.dumps(args, indent=2) + "\n", encoding="utf-8")
