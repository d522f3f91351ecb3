"""What follows from a model's weights alone: computed once, and again when a weight has changed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

if TYPE_CHECKING:
    from nam.mllm.base import MLLM

T = TypeVar("T")

#: Of each model, what was computed by its name, with the state of the weights that it was computed for.
_KNOWN: WeakKeyDictionary[MLLM, dict[Hashable, tuple[tuple[object, ...], Any]]] = WeakKeyDictionary()


def once(
    mllm: MLLM, name: Hashable, compute: Callable[[], T], *, weights: Iterable[Tensor] | None = None
) -> T:
    """What `compute` gives, kept for as long as the model lives and its weights stay.

    Args:
        mllm: The model.
        name: What is computed.
        compute: Gives it; it may take part in no gradient.
        weights: Those that are watched, and no others; None for unembedding, final norm, value vectors and
            the norms behind them. A write through a weight's `.data` is not seen.
    """
    # What changes when a weight is written: PyTorch counts the writes to each tensor.
    watched = _read_out(mllm) if weights is None else weights
    state = tuple((weight.data_ptr(), weight.device, weight.dtype, weight._version) for weight in watched)
    known = _KNOWN.setdefault(mllm, {})
    if name not in known or known[name][0] != state:
        # A tensor made in inference mode could not be used outside it in what has a gradient.
        with torch.inference_mode(False), torch.no_grad():
            known[name] = (state, compute())
    found: T = known[name][1]
    return found


def _read_out(mllm: MLLM) -> list[Tensor]:
    """What a neuron's write goes through when no other layer follows."""
    weights = [mllm.unembedding, *(site.linear.weight for site in mllm.ffn_sites)]
    norms = [mllm.final_norm, *(site.between for site in mllm.ffn_sites)]
    return weights + [weight for one in norms if one is not None for weight in one.parameters()]
