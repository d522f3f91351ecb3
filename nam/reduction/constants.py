"""What follows from a model's weights alone: computed once, and again when a weight has changed."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

import torch

if TYPE_CHECKING:
    from nam.mllm.base import MLLM

T = TypeVar("T")

#: Of each model, what was computed by its name, with the state of the weights that it was computed for.
_KNOWN: WeakKeyDictionary[MLLM, dict[Hashable, tuple[tuple[object, ...], Any]]] = WeakKeyDictionary()


def once(mllm: MLLM, name: Hashable, compute: Callable[[], T]) -> T:
    """What `compute` gives, kept for as long as the model lives and its weights stay.

    Args:
        mllm: The model. Its unembedding, final norm, value vectors and the norms behind them are watched, and
            no other weight; a write through a weight's `.data` is not seen.
        name: What is computed.
        compute: Gives it; it may take part in no gradient.
    """
    state = _state(mllm)
    known = _KNOWN.setdefault(mllm, {})
    if name not in known or known[name][0] != state:
        # A tensor made in inference mode could not be used outside it in what has a gradient.
        with torch.inference_mode(False), torch.no_grad():
            known[name] = (state, compute())
    found: T = known[name][1]
    return found


def _state(mllm: MLLM) -> tuple[object, ...]:
    """What changes when a weight is written: PyTorch counts the writes to each tensor, but for those through
    its `.data`."""
    norm = mllm.final_norm
    weights = [mllm.unembedding, *(site.linear.weight for site in mllm.ffn_sites)]
    norms = [norm, *(site.between for site in mllm.ffn_sites)]
    weights += [weight for one in norms if one is not None for weight in one.parameters()]
    return tuple((weight.data_ptr(), weight.device, weight._version) for weight in weights)
