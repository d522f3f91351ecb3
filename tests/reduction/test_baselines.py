"""The paper's baselines against captum, and what they must keep to beside the contract."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from captum.attr import IntegratedGradients as CaptumIntegratedGradients
from captum.attr import LayerGradientXActivation
from torch import Tensor

from nam.errors import ConfigError
from nam.hooks import Intervention, Visit
from nam.mllm.gill import GILL
from nam.reduction.act import Act
from nam.reduction.base import Context, Method, contexts_of
from nam.reduction.baseline import mean_activations
from nam.reduction.ce import CausalEffect
from nam.reduction.grad import Grad
from nam.reduction.gradxact import GradXAct
from nam.reduction.ig import IntegratedGradients
from nam.reduction.random import Random
from nam.reduction.random_same_layer import RandomSameLayer
from nam.reduction.relp import RelP
from nam.reduction.versions import Versions
from nam.types import Modality
from tests.families import FAMILIES, answers, build
from tests.reduction.cases import targets_of


@pytest.fixture(scope="module", params=FAMILIES)
def mllm(request: pytest.FixtureRequest, gill_folder: Path) -> GILL:
    return build(request.param, gill_folder, dtype=torch.float64)


@pytest.fixture(params=["text", "image"])
def modality(request: pytest.FixtureRequest) -> Modality:
    return request.param  # type: ignore[no-any-return]


def contexts(mllm: GILL, modality: Modality) -> list[Context]:
    """Answers without a picture in front, which a language model alone can read."""
    generations = answers(mllm)[::2]
    return contexts_of(mllm, generations, targets_of(mllm, generations, modality))


class Plain:
    """transformers' own forward of one answer, and y as a function of its embeddings or of a layer."""

    def __init__(self, mllm: GILL, context: Context) -> None:
        self.model, self.at = mllm.language_model, list(context.target.positions)
        self.directions = context.target.directions.to(mllm.dtype)
        self.embeds = self.model.get_input_embeddings()(torch.tensor([context.generation.token_ids]))
        linears = [m for n, m in self.model.named_modules() if n.endswith(("fc2", "down_proj"))]
        self.linears = linears

    def y(self, embeds: Tensor) -> Tensor:
        """(B,) of embeddings (B, T, H)."""
        hidden = self.model.get_decoder()(inputs_embeds=embeds).last_hidden_state[:, self.at]
        return (hidden * self.directions).sum((1, 2))

    def y_of_layer(self, layer: int, activations: Tensor) -> Tensor:
        """(B,) where the layer's activations at the target's positions are (B, P, d)."""

        def write(module: Any, given: tuple[Tensor]) -> tuple[Tensor]:
            rows = given[0].reshape(len(activations), -1, given[0].shape[-1]).clone()
            rows[:, self.at] = activations
            return (rows.reshape(given[0].shape),)

        handle = self.linears[layer].register_forward_pre_hook(write)
        try:
            return self.y(self.embeds.expand(len(activations), -1, -1))
        finally:
            handle.remove()


def test_the_activation_is_its_mean_over_positions(mllm: GILL, modality: Modality) -> None:
    for context in contexts(mllm, modality):
        expected = sum(context.activations.unbind(1)) / context.activations.shape[1]
        torch.testing.assert_close(Act().score(context).double(), expected, atol=1e-6, rtol=1e-5)


def test_the_gradient_is_captum_s(mllm: GILL, modality: Modality) -> None:
    for context in contexts(mllm, modality):
        plain, found = Plain(mllm, context), Grad().score(context)
        for layer, linear in enumerate(plain.linears):
            captum = LayerGradientXActivation(plain.y, linear, multiply_by_inputs=False)
            values = captum.attribute(plain.embeds.requires_grad_(), attribute_to_layer_input=True)
            expected = values.reshape(-1, found.shape[1])[plain.at].mean(0).detach()
            torch.testing.assert_close(found[layer].double(), expected, atol=1e-6, rtol=1e-5)
            assert float(expected.abs().max()) > 0.01


@pytest.mark.parametrize("baseline", ["zero", "mean"])
def test_integrated_gradients_are_captum_s(
    mllm: GILL, modality: Modality, baseline: Literal["zero", "mean"]
) -> None:
    for context in contexts(mllm, modality):
        plain = Plain(mllm, context)
        found = IntegratedGradients(steps=11, baseline=baseline, batch=4).score(context)
        start = torch.zeros_like(context.activations[:, 0])
        if baseline == "mean":
            start = mean_activations(mllm, modality=modality)
        for layer, activations in enumerate(context.activations):
            captum = CaptumIntegratedGradients(partial(plain.y_of_layer, layer))
            given = activations[None]
            values = captum.attribute(given, baselines=start[layer].expand_as(given).clone(), n_steps=11)
            expected = values[0].mean(0)
            torch.testing.assert_close(found[layer].double(), expected, atol=1e-6, rtol=1e-5)
            assert float(expected.abs().max()) > 0.01


@pytest.mark.parametrize("baseline", ["zero", "mean"])
def test_integrated_gradients_are_complete(
    mllm: GILL, modality: Modality, baseline: Literal["zero", "mean"]
) -> None:
    for context in contexts(mllm, modality):
        plain = Plain(mllm, context)
        start = torch.zeros_like(context.activations[:, 0])
        if baseline == "mean":
            start = mean_activations(mllm, modality=modality)
        scores = IntegratedGradients(steps=300, baseline=baseline).score(context).double()
        for layer, activations in enumerate(context.activations):
            ends = torch.stack([activations, start[layer].expand_as(activations)])
            whole, none = plain.y_of_layer(layer, ends)
            by_neuron = scores[layer] * len(context.target.positions)
            # The kinks of later ReLUs are all that a rule for smooth functions leaves.
            smooth = layer == len(scores) - 1 or type(mllm.language_model).__name__ != "OPTForCausalLM"
            tolerance = (1e-5 if smooth else 1e-3) * float(by_neuron.abs().sum())
            assert float(by_neuron.sum()) == pytest.approx(float(whole - none), abs=tolerance)
            assert float((whole - none).abs()) > 2 * tolerance


@pytest.mark.parametrize("method", [Grad(region=False), IntegratedGradients(region=False, steps=3)])
def test_without_a_region_a_picture_s_direction_is_one_in_every_dimension(mllm: GILL, method: Method) -> None:
    for context in contexts(mllm, "image"):
        ones = replace(context.target, directions=torch.ones_like(context.target.directions))
        expected = replace(method, region=True).score(replace(context, target=ones))  # type: ignore[call-arg]
        torch.testing.assert_close(method.score(context), expected)
        assert not torch.allclose(replace(method, region=True).score(context), expected)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "method", [Grad(batch=1), GradXAct(batch=2), IntegratedGradients(batch=3), CausalEffect(group=7, batch=5)]
)
def test_the_size_of_the_batch_changes_nothing_but_rounding(
    mllm: GILL, modality: Modality, method: Any
) -> None:
    given = contexts_of(mllm, answers(mllm), targets_of(mllm, answers(mllm), modality))
    together = replace(method, batch=64).score_batch(given)
    for a, b in zip(method.score_batch(given), together, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6 * float(b.abs().max()), rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", [IntegratedGradients(), CausalEffect(draws=5)])
def test_half_precision_gives_nearly_the_same(gill_folder: Path, family: str, method: Method) -> None:
    mllm, half = (build(family, gill_folder, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    generations = answers(mllm)
    targets = targets_of(mllm, generations, "image")
    expected = torch.stack(method.score_batch(contexts_of(mllm, generations, targets)))
    found = torch.stack(method.score_batch(contexts_of(half, generations, targets)))
    assert float(torch.corrcoef(torch.stack([found.flatten(), expected.flatten()]))[0, 1]) > 0.95


@pytest.mark.parametrize(
    ("build_it", "message"),
    [
        (lambda: Grad(batch=0), r"reduction\.grad\.batch must be an integer of at least 1, got 0"),
        (lambda: GradXAct(batch=0), r"reduction\.gradxact\.batch must be an integer of at least 1, got 0"),
        (lambda: RelP(batch=2.5), r"reduction\.relp\.batch must be an integer of at least 1, got 2\.5"),
        (lambda: IntegratedGradients(steps=0), r"reduction\.ig\.steps must be an integer of at least 1"),
        (lambda: CausalEffect(group=0), r"reduction\.ce\.group must be an integer of at least 1"),
        (lambda: CausalEffect(seed=-1), r"reduction\.ce\.seed must be an integer of at least 0, got -1"),
        (lambda: Random(seed=-1), r"reduction\.random\.seed must be an integer of at least 0, got -1"),
        (lambda: RandomSameLayer(seed=-1), r"reduction\.random_same_layer\.seed must be .* at least 0"),
        (lambda: RandomSameLayer(of="namm"), "reduction=namm: no such option; did you mean 'nam'"),
        (lambda: RandomSameLayer(of="random_same_layer"), "needs another method"),
    ],
)
def test_settings_that_mean_nothing_are_refused(build_it: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_it()


@pytest.mark.parametrize("resume", [True, False])
def test_versions_of_a_layer_are_what_an_intervention_makes_of_it(
    mllm: GILL, modality: Modality, resume: bool
) -> None:
    generations = answers(mllm)  # two of them with a picture in front
    for context in contexts_of(mllm, generations, targets_of(mllm, generations, modality)):
        versions = Versions.of(context, resume=resume)
        for layer in range(len(mllm.ffn_sites)):
            generator = torch.Generator().manual_seed(layer)
            shape = (3, *context.activations[layer].shape)
            values = torch.randn(shape, generator=generator, dtype=torch.float64)
            found = versions.hidden(values, layer=layer)
            for version, hidden in zip(values, found, strict=True):

                def write(visit: Visit, version: Tensor = version, layer: int = layer) -> Tensor:
                    return version if visit.layer == layer else visit.values

                written = Intervention(mllm, change=write, where=[context.target.positions])
                replayed = mllm.replay([context.generation], record=written).hidden[0]
                torch.testing.assert_close(hidden, replayed[list(context.target.positions)])
