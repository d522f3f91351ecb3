"""ROME (Meng et al. 2022), the outside baseline: a rank-one update of one FFN's output weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nam.editor.base import IMAGE, KEEP, TEXT, Problem, Solver
from nam.editor.reach import Reached, reach
from nam.errors import ConfigError
from nam.types import Neuron, NeuronSet


@dataclass(frozen=True, kw_only=True)
class Rome(Solver):
    """W + v k^T C^-1 / (k^T C^-1 k) for one layer: k the mean activation at the edited positions, C the
    second moment of the activations at all others, v what is still missing there of the residual stream.

    ROME finds v by gradient descent; here it is the mean of what is missing, measured anew after each step,
    so that later layers count as well. The neurons that were selected are not looked at.

    Attributes:
        layer: Whose FFN is changed; None tries each and takes the one that comes closest in one step.
        damping: Added to C's diagonal, in units of its mean.
    """

    name: ClassVar[str] = "rome"
    selects: ClassVar[bool] = False
    larger: ClassVar[str] = "set another editor.layer"
    smaller: ClassVar[str] = "raise editor.damping"

    steps: int = 5
    layer: int | None = None
    damping: float = 1e-2

    def __post_init__(self) -> None:
        super().__post_init__()
        self._refuse_odd("damping", above=True)

    def neurons(self, problem: Problem, chosen: NeuronSet) -> NeuronSet:
        layers = range(len(problem.mllm.ffn_sites))
        if self.layer is not None:
            if self.layer not in layers:
                raise ConfigError(f"editor.layer must be 0 to {len(layers) - 1}, got {self.layer}")
            return whole_layer(problem, self.layer)
        return whole_layer(problem, min(layers, key=lambda layer: self._after_one(problem, layer)))

    def propose(
        self, problem: Problem, neurons: NeuronSet, change: Tensor, here: Reached
    ) -> tuple[Tensor, Reached]:
        edited = here.roles != KEEP
        kept = here.activations[~edited].double()
        keys = here.activations[edited].double()
        second = kept.T @ kept / max(1, len(kept))
        second.diagonal().add_(self.damping * second.diagonal().mean().clamp(min=1e-6))
        key = keys.mean(0)
        direction = torch.linalg.solve(second, key)
        value = (here.wanted - here.stream)[edited].double().mean(0)
        # The response of the mean edited position is k^T C^-1 k: the update gives it exactly `value`.
        update = torch.outer(direction / (key @ direction).clamp(min=1e-12), value)
        there = change + update.to(change.dtype)
        reached = reach(problem, neurons, there)
        return (there, reached) if _left(reached) < _left(here) else (change, here)

    def _after_one(self, problem: Problem, layer: int) -> float:
        neurons = whole_layer(problem, layer)
        change = torch.zeros(len(neurons), problem.mllm.unembedding.shape[1], device=problem.mllm.device)
        here = reach(problem, neurons, change)
        return _left(self.propose(problem, neurons, change, here)[1])


def whole_layer(problem: Problem, layer: int) -> NeuronSet:
    """Every neuron of a layer."""
    width = problem.mllm.ffn_sites[layer].width
    return NeuronSet(tuple(Neuron(layer, unit) for unit in range(width)))


def _left(reached: Reached) -> float:
    return float(reached.error(IMAGE) + reached.error(TEXT))
