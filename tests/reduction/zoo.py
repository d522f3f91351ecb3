"""Tiny random language models of many classes, as MLLMs, and one answer of each."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nam.mllm.gill import GILL
from nam.mllm.gill_folder import read_gill
from nam.reduction.base import Context, contexts_of
from nam.types import Generation, Target

SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
ROTARY = {
    **SIZES,
    "intermediate_size": 48,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}


def opt(vocabulary: int, *, activation: str = "relu") -> Any:
    from transformers import OPTConfig, OPTForCausalLM

    sizes = {**SIZES, "ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 64}
    config = OPTConfig(vocab_size=vocabulary, activation_function=activation, init_std=0.3, **sizes)
    return OPTForCausalLM(config)


def llama(vocabulary: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **ROTARY))


def gemma(vocabulary: int) -> Any:
    from transformers import GemmaConfig, GemmaForCausalLM

    return GemmaForCausalLM(GemmaConfig(vocab_size=vocabulary, head_dim=8, **ROTARY))


def gemma3(vocabulary: int) -> Any:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    return Gemma3ForCausalLM(Gemma3TextConfig(vocab_size=vocabulary, head_dim=8, **ROTARY))


def qwen2(vocabulary: int) -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return Qwen2ForCausalLM(Qwen2Config(vocab_size=vocabulary, **ROTARY))


def qwen3(vocabulary: int) -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return Qwen3ForCausalLM(Qwen3Config(vocab_size=vocabulary, head_dim=8, **ROTARY))


ZOO: dict[str, Callable[[int], Any]] = {
    "opt": opt,
    "opt_gelu": lambda vocabulary: opt(vocabulary, activation="gelu"),
    "llama": llama,
    "gemma": gemma,
    "gemma3": gemma3,
    "qwen2": qwen2,
    "qwen3": qwen3,
}


def wrap(language_model: Any, folder: Path, *, dtype: torch.dtype = torch.float64) -> GILL:
    """A GILL around a language model whose gains and biases are no longer 1 and 0."""
    whole = read_gill(folder=folder)
    generator = torch.Generator().manual_seed(4)
    for name, value in language_model.named_parameters():
        if "norm" in name or name.endswith("bias"):
            value.data.add_(0.3 * torch.randn(value.shape, generator=generator))
    model = GILL(
        name="tiny",
        config=whole.config,
        language_model=language_model,
        codec=whole.codec,
        vision=copy.deepcopy(whole.vision),
        diffusion=whole.diffusion,
    )
    return model.eval().requires_grad_(False).to(dtype)


@cache
def shared(name: str, folder: Path, *, attention: str = "sdpa") -> GILL:
    """As `build`, made once: no test may change it."""
    return build(name, folder, attention=attention)


def build(name: str, folder: Path, *, attention: str = "sdpa") -> GILL:
    """A tiny random model of the zoo in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        language_model = ZOO[name](len(read_gill(folder=folder).tokenizer))
        language_model.set_attn_implementation(attention)
        return wrap(language_model, folder)


def an_answer(mllm: GILL, *, prompt: str = "a cat at night") -> Generation:
    """A short answer in words and [IMG] tokens; what it says means nothing."""
    found: Generation = mllm.generate(prompt, draw=True, max_new_tokens=4, steps=1, guidance=1.0)
    return found


def embeddings_of(mllm: GILL, generation: Generation) -> torch.Tensor:
    """What the language model reads, (1, T, H)."""
    return mllm.embed_tokens(torch.tensor([generation.token_ids]))


def a_context(mllm: GILL, *, everywhere: bool = False) -> Context:
    """Random directions at two positions of an answer; or at its last one, all others being positions too."""
    generation = an_answer(mllm)
    last = len(generation.token_ids) - 1
    positions = tuple(range(last + 1)) if everywhere else (last - 3, last)
    directions = torch.randn(len(positions), 32, generator=torch.Generator().manual_seed(9)).double()
    if everywhere:
        directions[:-1] = 0
    return contexts_of(mllm, [generation], [Target("image", positions, directions)])[0]


def linear_opt(folder: Path) -> GILL:
    """OPT without norms, its FFN linear and its patterns the same for every input."""
    mllm = build("opt", folder)
    decoder: Any = decoder_of(mllm)
    decoder.final_layer_norm = None
    for layer in decoder.layers:
        layer.self_attn_layer_norm = layer.final_layer_norm = layer.activation_fn = nn.Identity()
        layer.self_attn.q_proj.weight.zero_()
        layer.self_attn.q_proj.bias.zero_()
    return mllm


def decoder_of(mllm: GILL) -> nn.Module:
    """The stack of layers."""
    return mllm.language_model.get_decoder()  # type: ignore[no-any-return]
