"""Tiny random models of several families behind one interface: what holds for one must hold for all."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from nam.folders import configs_folder
from nam.mllm.base import MLLM
from nam.mllm.gill import GILL
from nam.mllm.gill_folder import read_gill
from nam.mllm.load import target
from nam.types import Generation

PROMPTS = ("draw a red horse on the grass", "what is this?", "a cat at night .", "a dog")

FAMILIES = ("opt", "llama")


def build(family: str, folder: Path, *, dtype: torch.dtype = torch.float32) -> GILL:
    """A tiny random model: OPT (ReLU, LayerNorm, flattened FFN) or LLaMA-like (gated FFN, RMSNorm)."""
    opt = read_gill(folder=folder)
    if family == "opt":
        return opt.to(dtype)
    return _with_llama(opt).to(dtype)


def _with_llama(opt: GILL) -> GILL:
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        config = LlamaConfig(
            vocab_size=len(opt.tokenizer),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            initializer_range=0.3,
        )
        language_model = LlamaForCausalLM(config).eval()
        for module in language_model.modules():
            if type(module).__name__ == "LlamaRMSNorm":
                torch.nn.init.normal_(module.weight, mean=1.0, std=0.3)
        model = GILL(
            name="tiny_llama",
            config=opt.config,
            language_model=language_model,
            codec=opt.codec,
            vision=copy.deepcopy(opt.vision),
            diffusion=opt.diffusion,
        )
    return model.eval().requires_grad_(False)


def picture(seed: int, size: tuple[int, int] = (64, 64)) -> np.ndarray:
    """A picture of noise; size: (height, width)."""
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def answers(mllm: GILL, *, words: int = 6, record: object = None) -> list[Generation]:
    """Answers of mixed lengths, with and without a picture in front, all with [IMG] tokens."""
    images = [None, picture(1), None, picture(2)]
    settings: dict[str, Any] = {"max_new_tokens": words, "steps": 1, "guidance": 1.0, "record": record}
    found: list[Generation] = mllm.generate(prompt=PROMPTS, image=images, draw=True, **settings)
    return found


def contract_models() -> Mapping[str, Callable[[Path, torch.dtype], MLLM]]:
    """Every family that has a tiny random model, by name: what makes it of a folder that holds a tiny GILL.

    They are found by their configs, `configs/mllm/<file>/tiny_random.yaml`; where the module that the config
    names has a table `FAMILIES`, each of its dense families counts.
    """
    found: dict[str, Callable[[Path, torch.dtype], MLLM]] = {}
    for family in FAMILIES:
        found[f"gill-{family}"] = partial(_gill, family)
    for path in sorted((configs_folder() / "mllm").glob("*/tiny_random.yaml")):
        settings = yaml.safe_load(path.read_text())
        read = target(settings.pop("_target_"))
        table = getattr(sys.modules[read.__module__], "FAMILIES", {})
        names = [name for name, one in table.items() if getattr(one, "dense", True)]
        for name in names or [None]:
            chosen = {**settings, **({} if name is None else {"family": name})}
            found["-".join(filter(None, (path.parent.name, name)))] = partial(_tiny_random, read, chosen)
    return found


def _gill(family: str, folder: Path, dtype: torch.dtype) -> MLLM:
    return build(family, folder, dtype=dtype)


def _tiny_random(read: Any, settings: dict[str, Any], folder: Path, dtype: torch.dtype) -> MLLM:
    made: MLLM = read(**{**settings, "dtype": str(dtype).removeprefix("torch.")})
    return made
