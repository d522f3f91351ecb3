"""GradDrop against a plain loop with detached layers, and by hand for two layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nam.errors import ConfigError, ModelError
from nam.reduction.atp_star import AtPStar, without_gradient
from nam.reduction.base import Context
from nam.reduction.gradxact import GradXAct
from tests.reduction.zoo import a_context, build, decoder_of, embeddings_of, shared


def gradient_with_one_layer_detached(context: Context, dropped: int) -> list[Tensor]:
    """dy/da of each layer at the target's positions, (P, d); 0 where y no longer depends on it."""
    mllm, at = context.mllm, list(context.target.positions)
    handles, read = [], []

    def detach(module: Any, given: Any, out: Any) -> Any:
        return (out[0].detach(), *out[1:]) if isinstance(out, tuple) else out.detach()

    def keep(module: Any, given: tuple[Tensor, ...]) -> tuple[Tensor]:
        read.append(given[0] if given[0].requires_grad else given[0].requires_grad_())
        return (read[-1],)

    for site in mllm.ffn_sites:
        handles.append(site.linear.register_forward_pre_hook(keep))
    layer: Any = decoder_of(mllm).layers[dropped]  # type: ignore[arg-type, index]
    for module in (layer.self_attn, mllm.ffn_sites[dropped].linear):
        handles.append(module.register_forward_hook(detach))
    embeds = embeddings_of(mllm, context.generation)  # type: ignore[arg-type]
    hidden = decoder_of(mllm)(inputs_embeds=embeds).last_hidden_state[0, at]
    for handle in handles:
        handle.remove()
    y = (hidden * context.target.directions).sum()
    found = torch.autograd.grad(y, read, allow_unused=True)
    tokens = embeds.shape[1]
    return [
        (torch.zeros_like(a) if g is None else g).reshape(tokens, -1)[at]
        for a, g in zip(read, found, strict=True)
    ]


@pytest.mark.parametrize("name", ["opt", "llama", "gemma3"])
def test_every_layer_is_dropped_once(gill_folder: Path, name: str) -> None:
    context = a_context(shared(name, gill_folder))
    expected = torch.zeros(3, 48, dtype=torch.float64)
    for dropped in range(3):
        for layer, gradient in enumerate(gradient_with_one_layer_detached(context, dropped)):
            # A leaf in front of the dropped layer's own linear gets no gradient.
            effect = (context.activations[layer] * gradient).mean(0)
            expected[layer] += effect.abs() / 2
    found = AtPStar().score(context)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-4)
    assert float(found.min()) >= 0


def test_the_last_layer_has_nothing_to_cancel(gill_folder: Path) -> None:
    """Its own drop adds 0, and each of the L - 1 others changes nothing."""
    context = a_context(shared("llama", gill_folder))
    found, plain = AtPStar().score(context), GradXAct().score(context).abs()
    torch.testing.assert_close(found[-1], plain[-1], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(found[0], plain[0], rtol=1e-2)


def test_values_stay_and_hooks_go(gill_folder: Path) -> None:
    mllm = shared("llama", gill_folder)
    context = a_context(mllm)
    expected = mllm.replay([context.generation]).hidden
    with without_gradient(mllm, 1):
        assert torch.equal(mllm.replay([context.generation]).hidden, expected)
    assert not any(module._forward_hooks for module in mllm.modules())


def test_a_layer_without_attention_of_its_name_is_refused(gill_folder: Path) -> None:
    mllm = build("opt", gill_folder)
    layer: Any = decoder_of(mllm).layers[1]  # type: ignore[index, union-attr]
    layer.attn = layer.self_attn
    del layer.self_attn
    with pytest.raises(ModelError, match="self_attn in every layer of tiny, OPTDecoderLayer has none"):
        without_gradient(mllm, 1).__enter__()
    assert not any(module._forward_hooks for module in mllm.modules())


def test_one_layer_is_refused(gill_folder: Path) -> None:
    mllm = build("opt", gill_folder)
    context = a_context(mllm)
    del decoder_of(mllm).layers[1:]  # type: ignore[union-attr, operator]
    mllm.language_model.config.num_hidden_layers = 1
    mllm.__dict__.pop("ffn_sites", None)
    with pytest.raises(ModelError, match="drops one layer of several, tiny has 1"):
        AtPStar()._score_batch([context])
    with pytest.raises(ConfigError, match=r"reduction\.atp_star\.batch must be an integer of at least 1"):
        AtPStar(batch=0)
