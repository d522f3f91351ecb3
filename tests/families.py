"""Tiny random models of several families behind one interface: what holds for one must hold for all."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch

from nam.mllm.gill import GILL
from nam.mllm.gill_folder import read_gill
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


def picture(seed: int) -> np.ndarray:
    """A picture of noise."""
    return np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def answers(mllm: GILL, *, words: int = 6, record: object = None) -> list[Generation]:
    """Answers of mixed lengths, with and without a picture in front, all with [IMG] tokens."""
    images = [None, picture(1), None, picture(2)]
    settings = {"max_new_tokens": words, "steps": 1, "guidance": 1.0, "record": record}
    found: list[Generation] = mllm.generate(prompt=PROMPTS, image=images, draw=True, **settings)
    return found
