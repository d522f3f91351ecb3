"""NAM with indirect paths against exact ablation, and against what it must reduce to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from torch import Tensor

import nam
from nam.errors import ConfigError, ModelError
from nam.hooks import Intervention, set_to, zero
from nam.hooks.intervention import Change
from nam.mllm.gill import GILL
from nam.reduction.ablated import ablated_hidden
from nam.reduction.base import Context, contexts_of
from nam.reduction.gradxact import GradXAct, gradients
from nam.reduction.nam_total import NamTotal
from nam.reduction.relp import RelP
from nam.targets import text_target
from nam.types import Concept, Neuron, NeuronSet, Target
from tests.reduction.zoo import a_context, build, decoder_of, linear_opt, shared

NAMES = ["opt_gelu", "llama"]


def effect(context: Context, neuron: Neuron, change: Change = zero) -> float:
    """(y - y with the neuron changed) / positions, by replaying the whole model."""
    at = list(context.target.positions)
    found = []
    for neurons in (NeuronSet(()), NeuronSet.of([neuron])):
        with Intervention(context.mllm, change=change, neurons=neurons, where=[at]):
            hidden = context.mllm.replay([context.generation]).hidden[0, at]
        found.append(float((hidden * context.target.directions).sum()) / len(at))
    return found[0] - found[1]


@pytest.mark.parametrize("name", NAMES)
def test_without_the_second_order_it_is_the_gradient_or_relp(gill_folder: Path, name: str) -> None:
    context = a_context(shared(name, gill_folder))
    assert torch.equal(NamTotal(final_norm="exact").score(context), GradXAct().score(context))
    held: dict[str, Any] = dict.fromkeys(("final_norm", "norms", "attention"), "held")
    relp = NamTotal(**held, nonlinearity="slope", gate="half").score(context)
    assert torch.equal(relp, RelP().score(context))


@pytest.mark.parametrize("name", ["opt", *NAMES])
def test_scores_by_the_formula_neuron_by_neuron(gill_folder: Path, name: str) -> None:
    mllm = shared(name, gill_folder)
    context = a_context(mllm)
    found, v = NamTotal().score(context), gradients([context], [context.after_norm()])[0]
    hidden = mllm.replay([context.generation]).hidden[0, list(context.target.positions)]
    norm: Any = mllm.final_norm
    is_opt = name.startswith("opt")
    for layer, unit in ((0, 3), (1, 40), (2, 11), (2, 30)):
        expected = 0.0
        for i, stream in enumerate(context.stream if context.stream is not None else ()):
            y = float(((hidden[i] - norm.bias) if is_opt else hidden[i]) @ context.target.directions[i])
            a, w = float(context.activations[layer, i, unit]), mllm.ffn_sites[layer].linear.weight[:, unit]
            variance = float(stream.var(unbiased=False) if is_opt else stream.square().mean())
            share = a**2 * float(w.var(unbiased=False) if is_opt else w.square().mean())
            share /= variance + (norm.eps if is_opt else norm.variance_epsilon)
            expected += y - (y - a * float(v[layer, i, unit])) / (1 + share) ** 0.5
        assert float(found[layer, unit]) == pytest.approx(expected / 2, rel=1e-4, abs=1e-6)


def test_a_write_across_the_stream_of_the_last_layer_is_exact(gill_folder: Path) -> None:
    """Where write and stream do not covary nothing is left out, however large the write."""
    mllm = build("opt_gelu", gill_folder)
    context = a_context(mllm)
    last = context.target.positions[-1:]
    target = Target("image", last, context.target.directions[-1:])
    context = contexts_of(mllm, [context.generation], [target])[0]
    assert context.stream is not None
    unit = int(context.activations[2, 0].argmax())
    a, weight = float(context.activations[2, 0, unit]), mllm.ffn_sites[2].linear.weight
    rest = context.stream[0] - a * weight[:, unit]
    rest = rest - rest.mean()
    side = torch.randn(32, generator=torch.Generator().manual_seed(1)).double()
    side = side - side.mean()
    side -= rest * (side @ rest) / (rest @ rest)
    # w = c rest + side with <rest + a w, w> = 0.
    x, r = float(rest @ rest), 1.0
    side *= (r / float(side @ side)) ** 0.5 * 0.45 * x**0.5 / a
    r = float(side @ side)
    c = (-x + (x**2 - 4 * a**2 * x * r) ** 0.5) / (2 * a * x)
    weight[:, unit] = c * rest + side
    context = contexts_of(mllm, [context.generation], [target])[0]
    expected = effect(context, Neuron(2, unit))
    assert NamTotal().score(context)[2, unit].item() == pytest.approx(expected, rel=1e-5)
    assert abs(GradXAct().score(context)[2, unit].item() - expected) > 0.05 * abs(expected)


def test_a_mean_baseline_is_what_the_neuron_is_put_to(
    gill_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mllm = linear_opt(gill_folder)
    context = a_context(mllm)
    means = torch.randn(3, 48, generator=torch.Generator().manual_seed(2)).double()
    monkeypatch.setattr("nam.reduction.baseline.mean_activations", lambda mllm, *, modality: means)
    found = NamTotal(baseline="mean", final_norm="exact").score(context)
    for neuron in (Neuron(0, 3), Neuron(1, 40), Neuron(2, 11)):
        expected = effect(context, neuron, set_to(float(means[neuron.layer, neuron.unit])))
        assert float(found[neuron.layer, neuron.unit]) == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("baseline", ["zero", "mean"])
def test_the_largest_writes_can_be_ablated_exactly(
    gill_folder: Path, monkeypatch: pytest.MonkeyPatch, baseline: Any
) -> None:
    mllm = shared("llama", gill_folder)
    context = a_context(mllm)
    means = torch.full((3, 48), 0.2).double()
    monkeypatch.setattr("nam.reduction.baseline.mean_activations", lambda mllm, *, modality: means)
    plain, some = (NamTotal(rerun=count, baseline=baseline).score(context) for count in (0, 10))
    changed = (plain != some).nonzero().tolist()
    assert len(changed) == 10
    assert all(layer < 2 for layer, _ in changed)
    change = context.activations - (means[:, None] if baseline == "mean" else 0)
    vectors = torch.stack([site.linear.weight for site in mllm.ffn_sites])
    sizes = (change.square().mean(1) * vectors.square().sum(1))[:2]
    assert {layer * 48 + unit for layer, unit in changed} == set(sizes.flatten().topk(10).indices.tolist())
    for layer, unit in changed[:3]:
        to = set_to(float(means[layer, unit]) if baseline == "mean" else 0.0)
        expected = effect(context, Neuron(layer, unit), to)
        assert float(some[layer, unit]) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_eq_4_s_activation_branch_can_take_part(gill_folder: Path) -> None:
    context = a_context(shared("opt", gill_folder))
    s, a = NamTotal().score(context).double(), context.activations.mean(1)
    expected = torch.maximum(s.exp() / s.exp().sum(), a.exp() / a.exp().sum()).log()
    found = NamTotal(activation_branch=True).score(context).double()
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_wrong_options_and_models_are_refused_by_name(gill_folder: Path) -> None:
    for options, message in (
        ({"baseline": "none"}, r"reduction\.nam_total\.baseline must be 'zero' or 'mean', got 'none'"),
        ({"final_norm": "fold"}, r"final_norm must be 'secant', 'exact' or 'held', got 'fold'"),
        ({"attention": "half"}, r"reduction\.nam_total\.attention must be 'held' or 'exact'"),
        ({"batch": 0}, r"reduction\.nam_total\.batch must be an integer of at least 1, got 0"),
        ({"rerun": -1}, r"reduction\.nam_total\.rerun must be an integer of at least 0, got -1"),
    ):
        with pytest.raises(ConfigError, match=message):
            NamTotal(**options)  # type: ignore[arg-type]
    context = a_context(shared("gemma3", gill_folder))
    message = r"^final_norm=secant: post_feedforward_layernorm .*; set reduction.nam_total.final_norm=exact$"
    with pytest.raises(ModelError, match=message):
        NamTotal().score(context)
    assert torch.equal(NamTotal(final_norm="exact").score(context), GradXAct().score(context))


@pytest.fixture(scope="module")
def shipped() -> GILL:
    return nam.load("tiny_gill")


@pytest.mark.parametrize("prompt", ["what says meow ?", "draw the animal that says meow ."])
def test_on_the_trained_model_it_predicts_exact_ablation(shipped: GILL, prompt: str) -> None:
    generation = shipped.generate(prompt, draw=False)
    target = text_target(shipped, generation, Concept("cat"))
    context = contexts_of(shipped, [generation], [target])[0]
    active = (context.activations.mean(1) > 0).nonzero().tolist()
    found = ablated_hidden(context, NeuronSet.of(Neuron(*where) for where in active[::2]))
    truth = ((found.plain - found.hidden) * target.directions).sum((1, 2)) / len(target.positions)

    def agreement(scores: Tensor) -> tuple[float, float]:
        picked = scores[found.layers, found.units]
        return float(pearsonr(picked, truth)[0]), float(spearmanr(picked, truth)[0])

    total, gradient = agreement(NamTotal().score(context)), agreement(GradXAct().score(context))
    assert total[0] >= 0.95
    assert total[1] >= 0.98
    assert total[1] > gradient[1]
    assert agreement(NamTotal(rerun=64).score(context))[0] > 0.995


def test_other_directions_give_other_scores(gill_folder: Path) -> None:
    context = a_context(shared("llama", gill_folder))
    plain = NamTotal(region=False).score(context)
    ones = replace(context.target, directions=torch.ones_like(context.target.directions))
    assert torch.equal(plain, NamTotal().score(replace(context, target=ones)))
    assert not torch.allclose(plain, NamTotal().score(context))
    assert decoder_of(context.mllm).training is False
