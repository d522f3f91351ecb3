"""What NExT-GPT trains, by the names of its published checkpoint, and how it comes into the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from nam.errors import ModelError
from nam.mllm.tensors import require_tensors

if TYPE_CHECKING:
    from nam.mllm.nextgpt import NextGPT

#: Prefix of the language model, which peft wraps.
LANGUAGE = "llama_model.base_model.model."

#: The whole embedding and unembedding, with the new tokens.
EMBEDDING = f"{LANGUAGE}model.embed_tokens.weight"
UNEMBEDDING = f"{LANGUAGE}lm_head.weight"

#: The same embedding, as a second attribute of the published model.
EMBEDDING_AGAIN = "input_embeddings.weight"

#: Prefixes of the modules: soft tokens, and the mappers of pictures, videos and sounds.
SOFT_TOKENS = "llama_proj."
PICTURES, VIDEOS, SOUNDS = (f"gen_text_hidden_fcs{kind}.0." for kind in ("", "_video", "_audio"))

#: The linears of a layer's attention that have a low-rank change.
ADAPTED = ("q_proj", "k_proj", "v_proj", "o_proj")


def write_state(model: NextGPT, state: Mapping[str, Tensor]) -> None:
    """Take over every trained tensor, in any precision, and merge the low-rank changes into the weights.

    Names may begin with `module.`, and `llama_model` may go without the prefix of peft, as in checkpoints of
    the earlier stages; `lora_A.default.weight` is `lora_A.weight`.

    Raises:
        ModelError: a tensor is missing, unknown, there twice with two values, not finite, or of another shape
            than the model's config says; nothing is changed then.
    """
    given = _by_one_name(state)
    require_tensors(given, published_shapes(model), whose="NExT-GPT's weights")
    for prefix, module in _modules(model).items():
        module.load_state_dict({key: given[prefix + key] for key in module.state_dict()})
    with torch.no_grad():
        for key, weight in _tables(model).items():
            weight.copy_(given[key])
        scale = model.config.lora_alpha / model.config.lora_rank
        for name, linear in _adapted(model):
            _merge(linear, given[f"{name}.lora_A.weight"], given[f"{name}.lora_B.weight"], scale=scale)


def published_shapes(model: NextGPT) -> dict[str, torch.Size]:
    """Names and shapes of every tensor of a checkpoint that fits the model."""
    shapes = {key: weight.shape for key, weight in _tables(model).items()}
    for prefix, module in _modules(model).items():
        shapes |= {prefix + key: value.shape for key, value in module.state_dict().items()}
    rank = model.config.lora_rank
    for name, linear in _adapted(model):
        shapes[f"{name}.lora_A.weight"] = torch.Size((rank, linear.in_features))
        shapes[f"{name}.lora_B.weight"] = torch.Size((linear.out_features, rank))
    return shapes


def _merge(linear: nn.Linear, first: Tensor, second: Tensor, *, scale: float) -> None:
    """W + scale B A, computed in float32 or finer on the weight's device."""
    kind = torch.promote_types(linear.weight.dtype, torch.float32)
    change = second.to(linear.weight.device, kind) @ first.to(linear.weight.device, kind)
    linear.weight.copy_(linear.weight.to(kind) + scale * change)


def _modules(model: NextGPT) -> dict[str, nn.Module]:
    return {
        SOFT_TOKENS: model.visual_embeddings,
        PICTURES: model.mapper,
        VIDEOS: model.video_mapper,
        SOUNDS: model.audio_mapper,
    }


def _tables(model: NextGPT) -> dict[str, Tensor]:
    return {
        EMBEDDING: model.language_model.get_input_embeddings().weight,
        UNEMBEDDING: model.language_model.get_output_embeddings().weight,
    }


def _adapted(model: NextGPT) -> Iterator[tuple[str, nn.Linear]]:
    for index, layer in enumerate(model.language_model.get_decoder().layers):
        for name in ADAPTED:
            yield f"{LANGUAGE}model.layers.{index}.self_attn.{name}", getattr(layer.self_attn, name)


def _by_one_name(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    given: dict[str, Tensor] = {}
    for name, value in state.items():
        key = _published_name(name)
        if key in given and not torch.equal(given[key], value):
            raise ModelError(f"NExT-GPT's weights have {key} twice, with two values")
        given[key] = value
    return given


def _published_name(name: str) -> str:
    key = name.removeprefix("module.").replace(".default.weight", ".weight")
    if key == EMBEDDING_AGAIN:
        return EMBEDDING
    if not key.startswith("llama_model."):
        return key
    return LANGUAGE + key.removeprefix(LANGUAGE).removeprefix("llama_model.")
