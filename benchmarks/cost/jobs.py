"""What is measured: every method of this project, and the same by hand and by its peers."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from benchmarks.cost.shape import MANY, Case
from nam.app.config import group_options
from nam.options import option
from nam.reduction.base import contexts_of

if TYPE_CHECKING:
    from nam.reduction.base import Method

#: Peers that need an environment of their own.
ELSEWHERE = ("transformer_lens", "nnsight", "pyvene")

#: Largest ratios to a bare forward pass, for one target and for many; a kind of method or a method by name.
TARGETS = {
    "direct": {1: 0.80, MANY: 1.10},
    "backward": {1: 1.60},
    "ablation": {1: 2.0},
    "ig": {1: 60.0},
}

#: Methods that go back through the model once a layer.
MANY_PASSES = ("atp_star",)

#: Options for methods whose defaults are meant for smaller models.
OPTIONS: dict[str, dict[str, Any]] = {"ablation": {"neurons": 64}, "ce": {"group": 1024, "draws": 1}}


@dataclass(frozen=True, eq=False)
class Job:
    """Something to measure.

    Attributes:
        name: What the table calls it.
        count: Targets that it attributes.
        run: Gives the scores of every neuron for each target, (L, d) each.
        target: Largest ratio to a bare forward pass that is wanted; None for no target.
        direct: Whether it needs one forward pass and no more.
        one_pass: Whether it needs one forward pass, and one backward at most.
        slow: Whether it runs the model many times.
    """

    name: str
    count: int
    run: Callable[[], Sequence[Tensor]]
    target: float | None = None
    direct: bool = False
    one_pass: bool = False
    slow: bool = False

    @property
    def label(self) -> str:
        """The name with the number of targets."""
        return f"{self.name}, {self.count} target{'s' if self.count > 1 else ''}"


def our_jobs(case: Case) -> Iterator[Job]:
    """Every method of `configs/reduction`, from the finished answer to scores; direct ones also for many."""
    for name in group_options("reduction"):
        options = OPTIONS.get(name, {})
        method: Method = option("reduction", name, **options)
        needs = method.needs
        direct = not (needs.backward or needs.rerun)
        one_pass = direct or (needs.backward and not needs.rerun and name not in MANY_PASSES)
        wanted = TARGETS.get(name, TARGETS["direct"] if direct else TARGETS["backward"] if one_pass else {})
        label = f"nam: {name}" + "".join(f" ({key}={value})" for key, value in options.items())
        for count in (1, MANY) if direct else (1,):
            yield Job(
                label,
                count,
                attribution(case, method, count),
                target=wanted.get(count),
                direct=direct,
                one_pass=one_pass,
                slow=not one_pass,
            )


def attribution(case: Case, method: Method, count: int) -> Callable[[], list[Tensor]]:
    """Scores of some targets by a method, as `nam.attribute` computes them."""
    targets = case.targets(count)

    def run() -> list[Tensor]:
        generations = [case.generation] * count
        contexts = contexts_of(case.mllm, generations, targets, later=method.needs.backward)
        return method.score_batch(contexts)

    return run


def peer_jobs(case: Case) -> Iterator[Job]:
    """The same with plain PyTorch hooks, and with captum where it is installed."""
    for count in (1, MANY):
        yield Job("plain hooks: direct", count, partial(hooks_direct, case, count))
    yield Job("plain hooks: gradient x activation", 1, partial(hooks_gradient, case))
    if importlib.util.find_spec("captum"):
        yield Job("captum: LayerActivation", 1, partial(captum_direct, case))
        yield Job("captum: LayerGradientXActivation", 1, partial(captum_gradient, case))


def absent_peers() -> list[str]:
    """The peers that are not measured here."""
    return [
        name for name in ("captum", *ELSEWHERE) if name in ELSEWHERE or not importlib.util.find_spec(name)
    ]


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
