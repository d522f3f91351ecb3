"""The same jobs by plain PyTorch hooks, and by captum on top of them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.cost.jobs import OPTIONS, Job
from benchmarks.cost.shape import MANY, Case
from nam.reduction.ablation import Ablation

#: Steps of integrated gradients, as `nam` takes them.
STEPS = 20


def peer_jobs(case: Case) -> Iterator[Job]:
    """The jobs, those of captum where it is installed."""
    for count in (1, MANY):
        yield Job("plain hooks: direct", count, partial(hooks_direct, case, count))
    yield Job("plain hooks: gradient x activation", 1, partial(hooks_gradient, case))
    yield Job("plain hooks: ablation of 64 neurons", 1, partial(hooks_ablation, case), slow=True)
    if importlib.util.find_spec("captum"):
        yield Job("captum: LayerActivation", 1, partial(captum_direct, case))
        yield Job("captum: LayerGradientXActivation", 1, partial(captum_gradient, case))
        name = f"captum: IntegratedGradients, {STEPS} steps a layer"
        yield Job(name, 1, partial(captum_integrated, case), slow=True)
        yield Job("captum: FeatureAblation of 64 neurons", 1, partial(captum_ablation, case), slow=True)


@torch.inference_mode()
def hooks_direct(case: Case, count: int) -> list[Tensor]:
    """Activation times <value vector, unembedding row>, after a forward pass with hooks."""
    read: list[Tensor] = []
    linears = _linears(case)
    handles = [linear.register_forward_pre_hook(lambda _, given: read.append(given[0])) for linear in linears]
    try:
        case.mllm.language_model(input_ids=case.input_ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    rows = case.mllm.unembedding[case.tokens[:count]]
    scores = [
        a.reshape(-1, a.shape[-1])[-1] * (rows @ one.weight) for a, one in zip(read, linears, strict=True)
    ]
    return list(torch.stack(scores, dim=1))


def hooks_gradient(case: Case) -> list[Tensor]:
    """Activation times the gradient of the token's logit, by autograd."""
    read: list[Tensor] = []

    def keep(_: Any, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        read.append(given[0] if given[0].requires_grad else given[0].detach().requires_grad_())
        return (read[-1],)

    handles = [linear.register_forward_pre_hook(keep) for linear in _linears(case)]
    try:
        logits = case.mllm.language_model(input_ids=case.input_ids, use_cache=False).logits
    finally:
        for handle in handles:
            handle.remove()
    gradients = torch.autograd.grad(logits[0, -1, case.tokens[0]], read)
    last = [(a * g).reshape(-1, a.shape[-1])[-1].detach() for a, g in zip(read, gradients, strict=True)]
    return [torch.stack(last)]


def captum_direct(case: Case) -> list[Tensor]:
    """The activations by captum, the rest by hand."""
    from captum.attr import LayerActivation

    linears = _linears(case)
    with torch.no_grad():
        method = LayerActivation(_last_logits(case), linears)
        read = method.attribute(_embeds(case), attribute_to_layer_input=True)
        row = case.mllm.unembedding[case.tokens[0]]
        scores = [_last(a) * (row @ linear.weight) for a, linear in zip(read, linears, strict=True)]
    return [torch.stack(scores)]


def captum_gradient(case: Case) -> list[Tensor]:
    """Gradient x activation of all layers in one call."""
    from captum.attr import LayerGradientXActivation

    method = LayerGradientXActivation(_last_logits(case), _linears(case))
    found = method.attribute(_embeds(case), target=case.tokens[0], attribute_to_layer_input=True)
    return [torch.stack([_last(one).detach() for one in found])]


def _last(found: Any) -> Tensor:
    """What captum gives for one layer at the last position, (d,)."""
    values: Tensor = found[0] if isinstance(found, tuple) else found
    return values.reshape(-1, values.shape[-1])[-1]


def _last_logits(case: Case) -> Any:
    class LastLogits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = case.mllm.language_model

        def forward(self, embeds: Tensor) -> Tensor:
            logits: Tensor = self.model(inputs_embeds=embeds, use_cache=False).logits
            return logits[:, -1]

    return LastLogits()


def _embeds(case: Case) -> Tensor:
    """The prompt's input embeddings: captum wants inputs that can have a gradient."""
    return case.mllm.embed_tokens(case.input_ids).detach()


def _linears(case: Case) -> list[torch.nn.Linear]:
    return [site.linear for site in case.mllm.ffn_sites]


@torch.inference_mode()
def hooks_ablation(case: Case) -> list[Tensor]:
    """Each neuron of the sample set to 0 in a row of its own: one batch of whole prompts."""
    neurons = sample(case)
    rows = torch.ones(len(neurons) + 1, len(neurons), device=case.mllm.device)
    rows[:-1].fill_diagonal_(0)
    logits = logit_with(case, rows, neurons)
    return [_spread(case, neurons, logits[-1] - logits[:-1])]


def captum_ablation(case: Case) -> list[Tensor]:
    """The same by captum, a feature for each neuron, all in one batch."""
    from captum.attr import FeatureAblation

    neurons = sample(case)
    method = FeatureAblation(partial(logit_with, case, neurons=neurons))
    with torch.no_grad():
        whole = torch.ones(1, len(neurons), device=case.mllm.device)
        found = method.attribute(whole, baselines=0, perturbations_per_eval=len(neurons))
    return [_spread(case, neurons, found[0])]


def captum_integrated(case: Case) -> list[Tensor]:
    """Integrated gradients of one layer's activations at the last position after another."""
    from captum.attr import IntegratedGradients

    units = torch.arange(case.shape.ffn)
    whole = torch.ones(1, len(units), device=case.mllm.device)
    found = []
    for layer in range(case.shape.layers):
        neurons = torch.stack([torch.full_like(units, layer), units], dim=1)
        method = IntegratedGradients(partial(logit_with, case, neurons=neurons))
        found.append(method.attribute(whole, baselines=0, n_steps=STEPS, method="gausslegendre")[0])
    return [torch.stack(found).detach()]


def sample(case: Case) -> Tensor:
    """The neurons that `nam`'s ablation takes: (layer, unit) each."""
    neurons = min(OPTIONS["ablation"]["neurons"], case.shape.layers * case.shape.ffn)
    return Ablation(neurons=neurons).sampled(case.mllm).nonzero()


def logit_with(case: Case, factors: Tensor, neurons: Tensor) -> Tensor:
    """The first token's logit (N,) in N rows where n neurons' activations are multiplied by factors (N, n) at
    the prompt's last position; `neurons` are (n, 2), layer and unit."""

    def scale(mine: Tensor, units: Tensor) -> Callable[..., tuple[Tensor]]:
        def hook(module: Any, given: tuple[Tensor, ...]) -> tuple[Tensor]:
            new = given[0].reshape(len(factors), -1, given[0].shape[-1]).clone()
            new[:, -1, units] = new[:, -1, units] * factors[:, mine]
            return (new.reshape(given[0].shape),)

        return hook

    with ExitStack() as stack:
        for layer, linear in enumerate(_linears(case)):
            mine = (neurons[:, 0] == layer).nonzero()[:, 0]
            if len(mine):
                hook = linear.register_forward_pre_hook(scale(mine, neurons[mine, 1]))
                stack.callback(hook.remove)
        ids = case.input_ids.expand(len(factors), -1)
        logits: Tensor = case.mllm.language_model(input_ids=ids, use_cache=False).logits
    return logits[:, -1, case.tokens[0]]


def _spread(case: Case, neurons: Tensor, values: Tensor) -> Tensor:
    """Values (n,) of some neurons among zeros, (L, d)."""
    found = values.new_zeros(case.shape.layers, case.shape.ffn)
    found[tuple(neurons.T)] = values
    return found
