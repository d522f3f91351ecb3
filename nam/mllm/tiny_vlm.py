"""Tiny RANDOM models of the real classes of transformers, written to a folder and read like any other.

Their answers mean nothing, but every path through the code is the full-size model's. They speak the words of
the scenes.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from nam.errors import ConfigError, nearest
from nam.mllm.device_map import Device
from nam.mllm.parts import quiet_hub
from nam.mllm.tiny_families import FAMILIES, TEXT, Family
from nam.mllm.vlm import VLM
from nam.mllm.vlm_folder import read_vlm

#: A turn of the user, with the family's placeholder for a picture, and the beginning of the answer.
TEMPLATE = """{%% for turn in messages %%}<user> {%% if turn.content is string %%}{{ turn.content }}
{%%- else %%}{%% for part in turn.content %%}{%% if part.type == 'image' %%}%s
{%%- else %%} {{ part.text }}{%% endif %%}{%% endfor %%}{%% endif %%}{%% endfor %%}
{%%- if add_generation_prompt %%} <assistant>{%% endif %%}"""


def read_tiny_vlm(
    *, family: str = "llava", seed: int = 0, dtype: str = "float32", device: Device = "cpu"
) -> VLM:
    """A tiny random model of a family, through a folder that is gone afterwards.

    Args:
        family: One of `FAMILIES`.
        seed: Of its weights.
        dtype, device: As in `read_vlm`.

    Raises:
        ConfigError: an unknown family, dtype or device.
        ModelError: models of that family are not supported.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = write_tiny_vlm(Path(folder) / f"tiny_{family}", family=family, seed=seed)
        return read_vlm(id=path, dtype=dtype, device=device, caption_prompt="a picture of")


def write_tiny_vlm(folder: Path, *, family: str, seed: int = 0) -> Path:
    """Write a tiny random model in the layout of the hub, and return the folder.

    Raises:
        ConfigError: an unknown family.
    """
    if family not in FAMILIES:
        raise ConfigError(f"mllm.family={family!r} is unknown ({nearest(str(family), FAMILIES)})")
    return write_tiny(folder, FAMILIES[family], seed=seed)


def write_tiny(folder: Path, made: Family, *, seed: int) -> Path:
    """Write a tiny random model made in that way, and return the folder.

    Things of the scenes are likelier than other words, so that answers hold some.
    """
    import transformers

    tokenizer = _tokenizer(made)
    model_class = getattr(transformers, made.model)
    common = {
        "vocab_size": len(tokenizer),
        **{f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")},
    }
    settings = made.config(tokenizer.convert_tokens_to_ids)
    holder = settings.get("text_config", settings)
    holder |= common
    with torch.random.fork_rng(devices=[]), quiet_hub():
        torch.manual_seed(seed)
        model = model_class(model_class.config_class(**settings, tie_word_embeddings=False))
        _shake(model)
        _lean(model, tokenizer)
    model.generation_config = transformers.GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    with quiet_hub():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if made.picture:
        kind, values = made.images
        getattr(transformers, kind)(**values).save_pretrained(folder)
        kind, values = made.processor
        text = json.dumps({"processor_class": kind, **values}, indent=2)
        (folder / "processor_config.json").write_text(text + "\n", encoding="utf-8")
    return folder


def _tokenizer(made: Family) -> Any:
    from transformers import PreTrainedTokenizerFast

    from nam.world.tokenizer import build_tokenizer

    words = build_tokenizer()
    words.add_special_tokens(
        {"extra_special_tokens": ["<user>", "<assistant>", *made.tokens]}, replace_extra_special_tokens=False
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words.backend_tokenizer,
        bos_token=words.bos_token,
        eos_token=words.eos_token,
        pad_token=words.pad_token,
        unk_token=words.unk_token,
        model_specific_special_tokens=dict(made.names),
        clean_up_tokenization_spaces=False,
        model_input_names=words.model_input_names,
        model_max_length=TEXT["max_position_embeddings"],
    )
    tokenizer.chat_template = TEMPLATE % made.picture
    return tokenizer


@torch.no_grad()
def _shake(model: Any) -> None:
    """Gains and biases that are not 1 and 0, no weight that begins as 0: what leaves one out goes wrong."""
    for name, value in model.named_parameters():
        if "norm" in name or name.endswith("bias") or not bool(value.any()):
            value.add_(0.3 * torch.randn_like(value))


@torch.no_grad()
def _lean(model: Any, tokenizer: Any) -> None:
    from nam.world.scene import NOUNS

    things = tokenizer.convert_tokens_to_ids(list(NOUNS))
    model.get_output_embeddings().weight[things] *= 3.0
