"""The language model's derivative by other rules: the same values forward, LRP's coefficients backward.

RelP (Rezaei Jafari et al. 2025, arXiv 2508.21258): norms whose scale is held constant, attention whose
patterns are, nonlinearities f(x) with slope f(x)/x, and half of a product's gradient to each of its sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from nam.checks import require_choices
from nam.errors import ModelError, nearest
from nam.mllm.norm import read_norm

if TYPE_CHECKING:
    from nam.mllm.base import MLLM

#: What an attention pattern is computed from: its linears, and norms that some models put behind them.
QUERIES_AND_KEYS = ("q_proj", "k_proj")
PATTERN_NORMS = ("q_norm", "k_norm")

#: Names, inside a decoder layer, of the FFN's nonlinearity.
NONLINEARITIES = ("activation_fn", "mlp.act_fn", "mlp.activation_fn")

#: Names, beside the value linear, of what makes an FFN a gated one.
GATES = ("gate_proj", "gate_up_proj")


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What stands for the derivative of each part; "exact" is its own. The defaults are RelP's.

    Attributes:
        norms: "held" treats each position's scale as a constant, in the layers' norms.
        final_norm: Likewise for the norm in front of the unembedding.
        attention: "held" treats the patterns as constants, so that only values carry a gradient.
        nonlinearity: "slope" gives f(x) the derivative f(x)/x, and 0 where x is 0.
        gate: "half" gives each side of act(gate) * up half of its derivative.

    Raises:
        ConfigError: a rule is unknown.
    """

    norms: Literal["held", "exact"] = "held"
    final_norm: Literal["held", "exact"] = "held"
    attention: Literal["held", "exact"] = "held"
    nonlinearity: Literal["slope", "exact"] = "slope"
    gate: Literal["half", "exact"] = "half"

    def __post_init__(self) -> None:
        require_choices(self, "reduction.nam_total")


@contextmanager
def linearised(mllm: MLLM, rules: Rules) -> Iterator[None]:
    """Inside, the language model computes the same values and differentiates by `rules`.

    It works through forward hooks alone, whatever attention implementation runs; all are gone afterwards,
    also after an exception.

    Raises:
        ModelError: a part that a rule is about was not found, or its class is unknown; nothing is left then.
    """
    with ExitStack() as stack:
        for module, hook in _hooks(mllm, rules):
            stack.callback(module.register_forward_hook(hook).remove)
        if rules.gate == "half":
            for linear in _gated(mllm):
                # First of all: what reads or writes activations at the same place sees a whole gradient.
                stack.callback(linear.register_forward_pre_hook(_halve, prepend=True).remove)
        yield


def _hooks(mllm: MLLM, rules: Rules) -> Iterator[tuple[nn.Module, Callable[..., Tensor]]]:
    for layer in mllm.language_model.get_decoder().layers:
        if rules.attention == "held":
            yield from ((module, _detach) for module in _pattern_linears(layer))
        if rules.nonlinearity == "slope":
            module = _one_of(layer, NONLINEARITIES, what="nonlinearity")
            # Slope and derivative of a ReLU are the same.
            if not isinstance(module, nn.ReLU):
                yield module, _follow_slope
        if rules.norms == "held":
            yield from ((module, _hold_scale(mllm, module)) for module in _norms_of(layer))
    if rules.final_norm == "held" and mllm.final_norm is not None:
        yield mllm.final_norm, _hold_scale(mllm, mllm.final_norm)


def _norms_of(layer: nn.Module) -> Iterator[nn.Module]:
    for name, module in layer.named_modules():
        is_norm = isinstance(module, nn.LayerNorm) or "RMSNorm" in type(module).__name__
        if is_norm and not name.endswith(PATTERN_NORMS):
            yield module


def _pattern_linears(layer: nn.Module) -> list[nn.Module]:
    names = {name.rpartition(".")[2]: module for name, module in layer.named_modules()}
    missing = [name for name in (*QUERIES_AND_KEYS, "v_proj") if name not in names]
    if missing:
        raise ModelError(
            f"{type(layer).__name__} has no {missing[0]} ({nearest(missing[0], names)}), so its attention "
            f"patterns cannot be held{_without('attention')}"
        )
    return [names[name] for name in QUERIES_AND_KEYS]


def _one_of(layer: nn.Module, names: tuple[str, ...], *, what: str) -> nn.Module:
    modules = dict(layer.named_modules())
    for name in names:
        if name in modules:
            return modules[name]
    raise ModelError(f"{type(layer).__name__} has no {what} called {' or '.join(names)}{_without(what)}")


def _without(rule: str) -> str:
    """What to do where a model cannot follow a rule: only nam_total has a choice."""
    return f", as relp needs it: use nam_total with reduction.nam_total.{rule}=exact, or gradxact"


def _gated(mllm: MLLM) -> Iterator[nn.Module]:
    """Value linears of FFNs whose activation is a product."""
    for site in mllm.ffn_sites:
        ffn = mllm.language_model.get_submodule(site.name.rpartition(".")[0])
        if any(hasattr(ffn, name) for name in GATES):
            yield site.linear


def _detach(module: nn.Module, given: tuple[Any, ...], out: Tensor) -> Tensor:
    return out.detach()


def _halve(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    return (0.5 * (given[0] + given[0].detach()), *given[1:])


def _follow_slope(module: nn.Module, given: tuple[Any, ...], out: Tensor) -> Tensor:
    x, values = given[0], out.detach()
    slope = torch.where(x == 0, 0, values / x.detach())
    return _with_derivative_of(slope * x, values)


def _hold_scale(mllm: MLLM, module: nn.Module) -> Callable[..., Tensor]:
    weight = getattr(module, "weight", None)
    # What is made in inference mode cannot take part in a gradient.
    with torch.inference_mode(False):
        norm = read_norm(module, like=mllm.unembedding if weight is None else weight)

    def hook(module: nn.Module, given: tuple[Any, ...], out: Tensor) -> Tensor:
        x = given[0].to(norm.gain)
        linear = norm.centre(x) / norm.scale(x).detach() * norm.gain
        return _with_derivative_of(linear.to(out), out.detach())

    return hook


def _with_derivative_of(linear: Tensor, values: Tensor) -> Tensor:
    """`values`, bit by bit, which differentiate as `linear` does."""
    return values + (linear - linear.detach())
