"""A tiny RANDOM NExT-GPT in published files: checkpoint, LLaMA, ImageBind and the generators.

Its answers mean nothing, but every path through the code is the full-size model's. It speaks the words of the
scenes.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nam.mllm.device_map import Device
from nam.mllm.diffusion import Diffusion
from nam.mllm.nextgpt import NextGPT
from nam.mllm.nextgpt_config import NextGPTCodec, NextGPTConfig
from nam.mllm.nextgpt_published import CHECKPOINT_FILE, read_published_nextgpt
from nam.mllm.nextgpt_state import PICTURES, SOUNDS, VIDEOS, published_shapes
from nam.mllm.parts import LazyParts, quiet_hub, read_tokenizer
from nam.mllm.tiny_generators import write_sound_generator, write_video_generator
from nam.mllm.tiny_gill import write_generator

#: Ids 0 to 2 of LLaMA's tokenizer, before its bytes.
LLAMA_SPECIAL = ("<unk>", "<s>", "</s>")

#: Stands for a blank in front of a word.
BLANK = "\u2581"

#: The published numbers of signal tokens, and everything else tiny.
CONFIG = NextGPTConfig(
    vision_dim=16,
    gen_emb_dim=16,
    video_emb_dim=24,
    audio_emb_dim=8,
    audio_seconds=0.25,
    video_frames=3,
    video_size=(32, 48),
    mapper_dim=16,
    mapper_layers=2,
    mapper_heads=2,
    lora_rank=2,
    lora_alpha=3.0,
    image_size=32,
    steps=4,
    caption_prompt="a picture of",
)

#: Width of the tower in the tiny file of ImageBind, its blocks, and the side of a patch.
TOWER, BLOCKS, PATCH = 32, 1, 8


def read_tiny_nextgpt(
    *, seed: int = 0, dtype: str = "float32", device: Device = "cpu", steps: int = 4
) -> NextGPT:
    """A tiny random NExT-GPT, read from published files in a folder that is gone when the model is.

    Args:
        seed: Of its weights.
        dtype, device, steps: As in `read_published_nextgpt`.

    Raises:
        ConfigError: an unknown dtype or device, or a wrong number of steps.
    """
    folder = tempfile.TemporaryDirectory()
    parts: dict[str, Any] = {**write_tiny_nextgpt(Path(folder.name), seed=seed)}
    model = read_published_nextgpt(**parts, dtype=dtype, device=device, steps=steps, config=CONFIG)
    model.name = "nextgpt_tiny_random"
    weakref.finalize(model, folder.cleanup)  # encoder and generator are read when first used
    return model


def write_tiny_nextgpt(folder: Path, *, seed: int = 0) -> dict[str, Path]:
    """Write everything that a published NExT-GPT is made of into a folder.

    Returns:
        Where the parts are, by the names of `read_published_nextgpt`.
    """
    import diffusers  # noqa: F401 - quiet_hub silences what has been imported
    import transformers  # noqa: F401

    parts = {
        "checkpoint": folder,
        "language_model": folder / "vicuna",
        "vision": folder / "imagebind_tiny.pth",
        "generator": folder / "sd",
        "audio_generator": folder / "audioldm",
        "video_generator": folder / "zeroscope",
    }
    with torch.random.fork_rng(devices=[]), quiet_hub():
        torch.manual_seed(seed)
        language_model = _write_llama(parts["language_model"])
        torch.save(imagebind_tensors(), parts["vision"])
        write_generator(parts["generator"], width=CONFIG.gen_emb_dim)
        write_sound_generator(parts["audio_generator"], width=CONFIG.audio_emb_dim)
        write_video_generator(parts["video_generator"], width=CONFIG.video_emb_dim)
        _write_checkpoint(folder, language_model)
    return parts


def write_llama_tokenizer(folder: Path, words: Sequence[str], *, size: int | None = None) -> int:
    """Write a tokenizer of LLaMA's kind: bytes, and each word behind a blank as one token.

    Args:
        folder: Made if need be.
        words: Of ASCII letters.
        size: Number of tokens; unused ones fill it up.

    Returns:
        The number of tokens.
    """
    from transformers import LlamaTokenizer

    letters = [chr(code) for code in range(33, 127)]
    tokens = dict.fromkeys([*LLAMA_SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), BLANK, *letters])
    merges: dict[tuple[str, str], None] = {}
    for word in ("###", "Human", "Assistant", *sorted(words)):
        if word != "###" and not (word.isascii() and word.isalpha()):
            continue
        for end in range(1, len(word) + 1):
            merges[BLANK + word[: end - 1], word[end - 1]] = None
            tokens[BLANK + word[:end]] = None
    merges["#", "#"] = tokens["##"] = None  # LLaMA's "###" behind a line's end: two tokens
    spare = 0 if size is None else size - len(tokens)
    vocab = {token: id_ for id_, token in enumerate([*tokens, *(f"unused{i:05}" for i in range(spare))])}
    tokenizer: Any = LlamaTokenizer(vocab=vocab, merges=list(merges))
    tokenizer.save_pretrained(folder)
    return len(vocab)


def imagebind_tensors() -> dict[str, Tensor]:
    """Random tensors by the names of ImageBind's published file, of pictures and, for one, of sounds."""

    def around(name: str, *shape: int, centre: float = 0.0) -> dict[str, Tensor]:
        return {f"modality_{name}": centre + 0.2 * torch.randn(*shape)}

    def pair(name: str, *shape: int, centre: float = 0.0) -> dict[str, Tensor]:
        weights = around(f"{name}.weight", *shape, centre=centre)
        return weights | around(f"{name}.bias", shape[0])

    places = (CONFIG.image_size // PATCH) ** 2 + 1
    state = around("preprocessors.vision.cls_token", 1, 1, TOWER)
    state |= around("preprocessors.vision.rgbt_stem.proj.1.weight", TOWER, 3, 2, PATCH, PATCH)
    state |= around("preprocessors.vision.pos_embedding_helper.pos_embed", 1, places, TOWER)
    state |= around("preprocessors.audio.cls_token", 1, 1, TOWER)
    state |= pair("trunks.vision.pre_transformer_layer.0", TOWER, centre=1.0)
    for index in range(BLOCKS):
        block = f"trunks.vision.blocks.{index}"
        state |= around(f"{block}.attn.in_proj_weight", 3 * TOWER, TOWER)
        state |= around(f"{block}.attn.in_proj_bias", 3 * TOWER)
        state |= pair(f"{block}.attn.out_proj", TOWER, TOWER)
        state |= pair(f"{block}.mlp.fc1", 4 * TOWER, TOWER) | pair(f"{block}.mlp.fc2", TOWER, 4 * TOWER)
        state |= pair(f"{block}.norm_1", TOWER, centre=1.0) | pair(f"{block}.norm_2", TOWER, centre=1.0)
    state |= pair("heads.vision.0", TOWER, centre=1.0)
    return state | around("heads.vision.2.weight", CONFIG.vision_dim, TOWER)


def _write_llama(folder: Path) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    from nam.world.vocabulary import vocabulary

    size = write_llama_tokenizer(folder, sorted(vocabulary()))
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        initializer_range=0.3,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "norm" in name:
                value.add_(0.3 * torch.randn_like(value))
    model.save_pretrained(folder)
    return model


@torch.no_grad()
def _write_checkpoint(folder: Path, language_model: Any) -> None:
    """The tensors that NExT-GPT trains; things of the scenes are likelier than other words, and what is drawn
    depends on what was asked."""
    from nam.world.scene import NOUNS

    tokenizer = read_tokenizer(folder / "vicuna")
    model = NextGPT(
        name=folder.name,
        config=CONFIG,
        language_model=language_model,
        codec=NextGPTCodec(tokenizer, CONFIG),
        vision=LazyParts({}),
        diffusion=Diffusion.from_folder(CONFIG, folder / "sd"),
    )
    state = {name: 0.3 * torch.randn(shape) for name, shape in published_shapes(model).items()}
    for prefix, mapper in (
        (PICTURES, model.mapper),
        (VIDEOS, model.video_mapper),
        (SOUNDS, model.audio_mapper),
    ):
        for module in mapper.modules():
            if isinstance(module, nn.Linear):
                module.weight.mul_(2.0)
        state |= {prefix + key: value for key, value in mapper.state_dict().items()}
    unembedding = next(value for name, value in state.items() if name.endswith("lm_head.weight"))
    unembedding[tokenizer.convert_tokens_to_ids([f"{BLANK}{noun}" for noun in NOUNS])] *= 3.0
    published = {
        name.replace("_A.weight", "_A.default.weight").replace("_B.weight", "_B.default.weight"): value.half()
        for name, value in state.items()
    }
    torch.save(published, folder / CHECKPOINT_FILE)
