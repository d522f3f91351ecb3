"""More tiny random language models: those on which a resumed forward pass could go wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nam.mllm.gill import GILL
from nam.mllm.gill_folder import read_gill
from tests.reduction.zoo import ROTARY, ZOO, wrap

WINDOWS: dict[str, Any] = {
    "sliding_window": 4,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}


def opt_post_norm(vocabulary: int) -> Any:
    """A norm behind each FFN, as in OPT-350m."""
    language_model = ZOO["opt"](vocabulary)
    config = type(language_model.config).from_dict(
        {**language_model.config.to_dict(), "do_layer_norm_before": False}
    )
    return type(language_model)(config)


def qwen2_windows(vocabulary: int) -> Any:
    """Layers that see the last 4 positions only, biases on queries and keys."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return Qwen2ForCausalLM(
        Qwen2Config(vocab_size=vocabulary, use_sliding_window=True, max_window_layers=0, **WINDOWS, **ROTARY)
    )


def gemma3_windows(vocabulary: int) -> Any:
    """Windows, rotary embeddings of two kinds, and a norm behind each FFN."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    return Gemma3ForCausalLM(Gemma3TextConfig(vocab_size=vocabulary, head_dim=8, **WINDOWS, **ROTARY))


CLASSES: dict[str, Callable[[int], Any]] = {
    "opt": ZOO["opt"],
    "opt_post_norm": opt_post_norm,
    "llama": ZOO["llama"],
    "qwen2": qwen2_windows,
    "gemma3": gemma3_windows,
}


def with_language_model(folder: Path, kind: str, *, attention: str = "sdpa") -> GILL:
    """The folder's model around a float64 language model of a class; its norms and biases are not trivial."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        language_model = CLASSES[kind](len(read_gill(folder=folder).tokenizer))
        language_model.set_attn_implementation(attention)
        return wrap(language_model, folder)
