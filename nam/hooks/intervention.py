"""Writing: other activations for chosen neurons at chosen positions, while a model runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from nam.errors import InputError
from nam.hooks.sites import SiteHooks, Visit, Where
from nam.types import NeuronSet

if TYPE_CHECKING:
    from nam.mllm.base import MLLM

#: New values (n, u) for a visit whose `values` are those of the u chosen neurons of its layer.
Change = Callable[[Visit], Tensor]


class Intervention(SiteHooks):
    """Changes activations in every forward pass inside the `with`, without touching a parameter.

    >>> with Intervention(mllm, change=zero, neurons=horses):   # doctest: +SKIP
    ...     mllm.generate("draw a horse")

    Gradients flow through the new values, and through the untouched ones, as in the model itself.

    Args:
        mllm: Whose neurons are changed.
        change: Gives the new values: `zero`, `scale(0.5)`, `set_to(1.0)`, `add_noise(std=0.1)`, or a
            function.
        neurons: The neurons; None for all.
        where: Positions at which they are changed.

    Raises:
        InputError: the model has no such neuron.
    """

    def __init__(
        self, mllm: MLLM, *, change: Change, neurons: NeuronSet | None = None, where: Where = "all"
    ) -> None:
        super().__init__(mllm, where=where)
        sites = mllm.ffn_sites
        for neuron in neurons or ():
            if neuron.layer >= len(sites) or neuron.unit >= sites[neuron.layer].width:
                raise InputError(f"there is no neuron {neuron} in {len(sites)} layers of {sites[0].width}")
        self.change = change
        self.units = None if neurons is None else neurons.by_layer()

    def _modules(self) -> Sequence[tuple[int, nn.Module]]:
        sites = self.mllm.ffn_sites
        return [(s.layer, s.linear) for s in sites if self.units is None or s.layer in self.units]

    def _visit(self, visit: Visit) -> Tensor:
        if self.units is None:
            return self.change(visit)
        units = torch.tensor(self.units[visit.layer], device=visit.values.device)
        chosen = Visit(visit.layer, visit.rows, visit.positions, visit.values.index_select(1, units))
        return visit.values.index_copy(1, units, self.change(chosen).to(visit.values))


def zero(visit: Visit) -> Tensor:
    """Ablation: every activation becomes 0."""
    return torch.zeros_like(visit.values)


def scale(factor: float) -> Change:
    """Every activation times a factor."""
    return lambda visit: visit.values * factor


def set_to(value: float) -> Change:
    """Every activation becomes this value."""
    return lambda visit: torch.full_like(visit.values, value)


def add_noise(*, std: float, seed: int = 0) -> Change:
    """Gaussian noise of this standard deviation on every activation.

    A position's noise follows from seed, layer and position, so that it does not depend on the batch.
    """

    def change(visit: Visit) -> Tensor:
        width = visit.values.shape[1]
        drawn = [
            np.random.default_rng([seed, visit.layer, position]).standard_normal(width)
            for position in visit.positions
        ]
        return visit.values + std * torch.from_numpy(np.stack(drawn)).to(visit.values)

    return change
