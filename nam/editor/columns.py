"""Value vectors as columns: read, written, or changed without being written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from nam.types import Neuron, NeuronSet

if TYPE_CHECKING:
    from nam.mllm.base import MLLM

#: Neurons that an error names.
_NAMED = 4


class Changed:
    """The model as it would be with `change` added to its value vectors, inside the `with`.

    No parameter is touched, and gradients flow to `change` alone where the model is frozen.

    Args:
        mllm: The model.
        neurons: Whose value vectors are changed, n of them.
        change: (n, H), on the model's device; float32 even for a model in half precision.
    """

    def __init__(self, mllm: MLLM, neurons: NeuronSet, change: Tensor) -> None:
        self.mllm, self.neurons, self.change = mllm, neurons, change
        self._stack: ExitStack | None = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            start = 0
            for layer, units in self.neurons.by_layer().items():
                part = self.change[start : start + len(units)]
                site = self.mllm.ffn_sites[layer]
                hook = _adding(torch.tensor(units, device=site.device), part.to(site.device))
                stack.callback(site.linear.register_forward_hook(hook).remove)
                start += len(units)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        stack, self._stack = self._stack, None
        if stack is not None:
            stack.close()


def _adding(units: Tensor, change: Tensor) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
    def hook(module: nn.Module, given: tuple[Any, ...], written: Tensor) -> Tensor:
        active = given[0].index_select(-1, units)
        return written + (active.to(change.dtype) @ change).to(written.dtype)

    return hook


def read_columns(mllm: MLLM, neurons: NeuronSet) -> Tensor:
    """Value vectors of neurons as the model has them now, a copy (n, H) on the CPU."""
    parts = []
    for layer, units in neurons.by_layer().items():
        parts.append(mllm.ffn_sites[layer].columns(torch.tensor(units)).detach().T.cpu())
    return torch.cat(parts).contiguous()


@torch.no_grad()
def write_columns(mllm: MLLM, neurons: NeuronSet, columns: Tensor) -> None:
    """Write value vectors (n, H) into the model's weights; no other column is touched."""
    start = 0
    for layer, units in neurons.by_layer().items():
        weight = mllm.ffn_sites[layer].linear.weight
        part = columns[start : start + len(units)].to(weight.device)
        weight[:, torch.tensor(units, device=weight.device)] = part.T
        start += len(units)


def bits(values: Tensor) -> Tensor:
    """The tensor's bytes as integers of its width: equal where the bits are, NaN and signed zero included."""
    return values.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[values.element_size()])


def named(neurons: Sequence[Neuron]) -> str:
    """The first few neurons by name."""
    more = ", ..." if len(neurons) > _NAMED else ""
    return ", ".join(map(str, neurons[:_NAMED])) + more
