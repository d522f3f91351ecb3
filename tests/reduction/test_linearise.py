"""The linearised language model against the frozen network written out by hand."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nam.errors import ConfigError, ModelError
from nam.hooks import Intervention, zero
from nam.mllm.gill import GILL
from nam.reduction import linearise
from nam.reduction.base import Context
from nam.reduction.gradxact import GradXAct, gradients
from nam.reduction.linearise import Rules, linearised
from nam.reduction.relp import RelP
from nam.types import Neuron, NeuronSet
from tests.reduction.by_hand import ByHand
from tests.reduction.zoo import (
    ZOO,
    a_context,
    an_answer,
    build,
    decoder_of,
    embeddings_of,
    linear_opt,
    shared,
)

RULES = {
    "norms": "held",
    "final_norm": "held",
    "attention": "held",
    "nonlinearity": "slope",
    "gate": "half",
}
EXACT: dict[str, Any] = dict.fromkeys(RULES, "exact")


def hooks_of(mllm: GILL) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in mllm.modules())


def by_differences(by_hand: ByHand, context: Context, layer: int, units: list[int]) -> Tensor:
    """dy/da at the context's positions by symmetric differences, (P, units)."""
    positions, step = list(context.target.positions), 1e-4
    a = by_hand.activations[layer]
    found = torch.zeros(len(positions), len(units), dtype=torch.float64)
    for row, column in product(range(len(positions)), range(len(units))):
        added = torch.zeros_like(a)
        added[positions[row], units[column]] = step
        change = by_hand({layer: added})[positions] - by_hand({layer: -added})[positions]
        found[row, column] = (change * context.target.directions).sum() / (2 * step)
    return found


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize(
    "rules",
    [
        Rules(),
        Rules(norms="exact"),
        Rules(norms="exact", final_norm="exact"),
        Rules(nonlinearity="exact", gate="exact"),
    ],
    ids=["relp", "norms", "all_norms", "ffn"],
)
def test_every_class_differentiates_as_the_frozen_network_by_hand(
    gill_folder: Path, name: str, rules: Rules
) -> None:
    mllm = shared(name, gill_folder)
    context = a_context(mllm)
    by_hand = ByHand(mllm, embeddings_of(mllm, context.generation), rules)
    with linearised(mllm, rules):
        found = gradients([context], [context.after_norm()])[0]
    for layer in range(3):
        at = list(context.target.positions)
        torch.testing.assert_close(
            context.activations[layer], by_hand.activations[layer][at], atol=1e-5, rtol=1e-4
        )
        expected = by_differences(by_hand, context, layer, [0, 7, 20, 47])
        # transformers' RMSNorm and eager softmax are float32 whatever the model's precision.
        scale = float(found[layer].abs().max())
        torch.testing.assert_close(found[layer][:, [0, 7, 20, 47]], expected, atol=1e-5 * scale, rtol=1e-3)


@pytest.mark.parametrize("name", ZOO)
def test_values_are_the_model_s_own_bit_by_bit(gill_folder: Path, name: str) -> None:
    mllm = shared(name, gill_folder)
    generation = an_answer(mllm)
    expected = mllm.replay([generation]).hidden
    with linearised(mllm, Rules()):
        assert torch.equal(mllm.replay([generation]).hidden, expected)
    assert hooks_of(mllm) == 0


@pytest.mark.parametrize("name", ZOO)
def test_exact_rules_are_the_gradient_and_every_other_one_is_not(gill_folder: Path, name: str) -> None:
    mllm = shared(name, gill_folder)
    context = a_context(mllm)
    expected = gradients([context], [context.after_norm()])[0]
    with linearised(mllm, Rules(**EXACT)):
        assert torch.equal(gradients([context], [context.after_norm()])[0], expected)
    without_effect = {"opt": {"nonlinearity", "gate"}, "opt_gelu": {"gate"}}.get(name, set())
    for rule, value in RULES.items():
        with linearised(mllm, Rules(**{**EXACT, rule: value})):
            found = gradients([context], [context.after_norm()])[0]
        assert torch.allclose(found, expected, rtol=1e-3) is (rule in without_effect), rule


@pytest.mark.parametrize("name", ["llama", "gemma3", "opt"])
def test_attention_implementations_agree(gill_folder: Path, name: str) -> None:
    found = []
    for attention in ("sdpa", "eager"):
        mllm = shared(name, gill_folder, attention=attention)
        context = a_context(mllm)
        with linearised(mllm, Rules()):
            found.append(gradients([context], [context.after_norm()])[0])
    scale = float(found[0].abs().max())
    torch.testing.assert_close(*found, atol=1e-5 * scale, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gemma", "qwen3", "gemma3"])
def test_relevance_is_conserved_from_layer_to_layer(gill_folder: Path, name: str) -> None:
    """Without biases, what the neurons of a layer and the rest of the stream get adds up to y."""
    mllm = shared(name, gill_folder)
    context = a_context(mllm, everywhere=True)
    embeds = embeddings_of(mllm, context.generation).requires_grad_()
    streams: list[Tensor] = []
    written: list[Tensor] = []

    def keep_stream(module: nn.Module, given: Any, out: Any) -> None:
        streams.append(out[0] if isinstance(out, tuple) else out)

    def keep_written(module: nn.Module, given: Any, out: Tensor) -> None:
        written.append(out.detach())

    handles = [layer.register_forward_hook(keep_stream) for layer in decoder_of(mllm).layers]
    handles += [site.linear.register_forward_hook(keep_written) for site in mllm.ffn_sites]
    with linearised(mllm, Rules()):
        hidden = decoder_of(mllm)(inputs_embeds=embeds).last_hidden_state[0, -1]
        y = hidden @ context.target.directions[-1]
        at_inputs, *at_streams = torch.autograd.grad(y, [embeds, *streams])
        for handle in handles:
            handle.remove()
        found = gradients([context], [context.after_norm()])[0]
    total = y.detach()
    # transformers computes RMSNorm in float32.
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close((embeds * at_inputs).sum().detach(), total, **close)
    for layer, (stream, gradient) in enumerate(zip(streams, at_streams, strict=True)):
        torch.testing.assert_close((stream.detach() * gradient).sum(), total, **close)
        if name != "gemma3":  # a norm stands between its FFN and the stream
            neurons = (context.activations[layer] * found[layer]).sum()
            rest = ((stream.detach() - written[layer]) * gradient).sum()
            torch.testing.assert_close(neurons + rest, total, **close)
            assert float(neurons.abs()) > 1e-3


def test_slopes_by_hand() -> None:
    """SiLU's slope is the logistic function, GELU's the normal distribution, ReLU's a step."""
    x = torch.tensor([-2.0, 0.0, 0.5], dtype=torch.float64, requires_grad=True)
    for module, slope in (
        (nn.SiLU(), [1 / (1 + torch.e**2), 0, 1 / (1 + torch.e**-0.5)]),
        (nn.GELU(), [0.022750131948179195, 0, 0.6914624612740131]),
        (nn.Tanh(), [0.48201379003790845, 0, 0.9242343145200195]),
    ):
        handle = module.register_forward_hook(linearise._follow_slope)
        y = module(x)
        handle.remove()
        assert torch.equal(y, module(x))
        (gradient,) = torch.autograd.grad(y.sum(), x)
        torch.testing.assert_close(gradient, torch.tensor(slope).double())


def test_in_a_linear_network_relp_gradient_and_ablation_are_one(gill_folder: Path) -> None:
    mllm = linear_opt(gill_folder)
    context = a_context(mllm)
    at = list(context.target.positions)

    def y() -> Tensor:
        return (mllm.replay([context.generation]).hidden[0, at] * context.target.directions).sum() / len(at)

    relp, gradient = RelP().score(context), GradXAct().score(context)
    torch.testing.assert_close(relp, gradient)
    for neuron in (Neuron(0, 3), Neuron(1, 40), Neuron(2, 11)):
        with Intervention(mllm, change=zero, neurons=NeuronSet.of([neuron]), where=[at]):
            without = y()
        expected = y() - without
        torch.testing.assert_close(relp[neuron.layer, neuron.unit].double(), expected, rtol=1e-5, atol=1e-5)
        assert float(expected.abs()) > 0.01


def test_what_a_rule_is_about_must_be_there(gill_folder: Path) -> None:
    mllm = build("llama", gill_folder)
    layer: Any = decoder_of(mllm).layers[2]  # type: ignore[index, union-attr]
    layer.mlp.odd, layer.mlp.act_fn = layer.mlp.act_fn, None
    with pytest.raises(ModelError, match=r"no nonlinearity .* reduction\.nam_total\.nonlinearity=exact"):
        linearised(mllm, Rules()).__enter__()
    assert hooks_of(mllm) == 0
    mllm = build("llama", gill_folder)
    layer = decoder_of(mllm).layers[1]  # type: ignore[index, union-attr]
    layer.self_attn.qkv_proj = layer.self_attn.q_proj
    del layer.self_attn.q_proj
    with pytest.raises(ModelError, match=r"no q_proj .* reduction\.nam_total\.attention=exact, or gradxact"):
        linearised(mllm, Rules()).__enter__()
    assert hooks_of(mllm) == 0
    with pytest.raises(
        ConfigError, match=r"reduction\.nam_total\.gate must be 'half' or 'exact', got 'quarter'"
    ):
        Rules(gate="quarter")  # type: ignore[arg-type]


def test_hooks_are_gone_after_an_exception(gill_folder: Path) -> None:
    mllm = shared("gemma3", gill_folder)

    def interrupted() -> None:
        with linearised(mllm, Rules()):
            assert hooks_of(mllm) > 10
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert hooks_of(mllm) == 0
