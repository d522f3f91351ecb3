"""Several continuations of one sequence, side by side in one sequence: what attention is then called with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Enough(Exception):
    """What was wanted of a layer is there; nothing else of it needs to be computed."""


class Keys:
    """What attention asks of transformers' cache, for one call of one layer.

    Args:
        held: Keys and values of the earlier positions, (1 or N, heads, S, head size) each; None: those that
            come by are kept.
        enough: Keep them with those that come by, and raise `Enough` instead of letting attention go on.
    """

    def __init__(self, held: tuple[Tensor, Tensor] | None = None, *, enough: bool = False) -> None:
        self.held, self.enough = held, enough

    def update(self, keys: Tensor, values: Tensor, *rest: Any, **more: Any) -> tuple[Tensor, Tensor]:
        """All keys and values, for those of the newest positions."""
        if self.held is None:
            self.held = (keys, values)
            return self.held
        both = zip(self.held, (keys, values), strict=True)
        found, values = (torch.cat([old.expand(len(new), -1, -1, -1), new], -2) for old, new in both)
        if self.enough:
            self.held = (found, values)
            raise Enough
        return found, values


def pack_mask(
    given: Tensor | None, *, start: int, stop: int, times: int, device: torch.device
) -> Tensor | None:
    """The attention mask of `times` copies of positions `start` to `stop` - 1, W of them, in one sequence.

    Each copy sees the positions before `start`, which all share, and itself, as the sequence did.

    Args:
        given: Mask of the whole sequence, (..., T, T), bool (True sees) or added to the attention's logits;
            None where each position sees all up to itself.
        start, stop: The positions.
        times: Copies.
        device: Where a new mask is made.

    Returns:
        (..., times * W, start + times * W) of the kind that was given; None where that means the same.
    """
    width = stop - start
    if given is None:
        if times == 1 and (start == 0 or width == 1):
            return None
        given = torch.ones(1, 1, stop, stop, dtype=torch.bool, device=device).tril()
    window = given[..., start:stop, :stop]
    if times == 1:
        return window
    shut = window.new_full((), False if given.dtype == torch.bool else torch.finfo(given.dtype).min)
    same = torch.eye(times, dtype=torch.bool, device=given.device)[:, None, :, None]
    own = torch.where(same, window[..., None, :, None, start:], shut)
    lead = given.shape[:-2]
    earlier = window[..., None, :, :start].expand(*lead, times, width, start)
    parts = [earlier.reshape(*lead, times * width, start), own.reshape(*lead, times * width, times * width)]
    return torch.cat(parts, dim=-1)


def pack_axis(value: Any, axis: int, *, start: int, stop: int, times: int) -> Any:
    """`times` copies of positions `start` to `stop` - 1 of a tensor with positions along an axis.

    Of a tuple or list, the same of each in it; anything else as it is.
    """
    if isinstance(value, Tensor):
        return torch.cat([value.narrow(axis, start, stop - start)] * times, axis)
    if isinstance(value, tuple | list):
        return type(value)(pack_axis(one, axis, start=start, stop=stop, times=times) for one in value)
    return value


def has_tensor(value: Any) -> bool:
    """Whether there is a tensor in a value, or in the tuples, lists and dicts that it is made of."""
    if isinstance(value, dict):
        return any(map(has_tensor, value.values()))
    return isinstance(value, Tensor) or (isinstance(value, tuple | list) and any(map(has_tensor, value)))
