"""The maths of the methods as pure functions. Letters: L layers, P positions, d neurons a layer."""

from __future__ import annotations

from collections.abc import Collection
from functools import reduce
from typing import Literal

import torch
from torch import Tensor

#: How positions become one: "mean" (s and a are each averaged, then eq. 4), "max" (each neuron's largest), or
#: "each" (eq. 4 at each position, then the mean of its logarithm).
Aggregate = Literal["mean", "max", "each"]

#: What eq. 4 compares: "both" shares, or the share of the "direct" effect or of the "activation" alone.
Branch = Literal["both", "direct", "activation"]


def passes(activations: Tensor, *, top: Tensor, bottom: Tensor | None, ids: Collection[int]) -> Tensor:
    """Eq. 7: whose own first word is one of `ids`, bool (L, P, d); all others contribute 0.

    A neuron's first word is what it raises most: the vocabulary's maximum along its value vector while it is
    positive, and the minimum while it is negative (gated FFNs).

    Args:
        activations: (L, P, d).
        top, bottom: Token of the maximum and the minimum, (L, d); None where no activation is negative.
        ids: Tokens that count.
    """
    raised = _one_of(top, ids)[:, None]
    if bottom is None:
        return raised.expand(activations.shape)
    return torch.where(activations >= 0, raised, _one_of(bottom, ids)[:, None])


def log_branches(s: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithms of the two softmaxes of eq. 4, over all neurons of all layers: the last two axes.

    Args:
        s: Direct effects, (..., L, d).
        a: Activations, likewise.
    """
    return _log_share(s), _log_share(a)


def final_score(s: Tensor, a: Tensor, *, branch: Branch = "both") -> Tensor:
    """Eq. 4 as a logarithm: log max(softmax(s), softmax(a)), (..., L, d) as both are; or one branch alone."""
    if branch == "both":
        return torch.maximum(*log_branches(s, a))
    return _log_share(s if branch == "direct" else a)


def to_unit_scale(values: Tensor) -> Tensor:
    """Values (..., L, d) over their root mean square over all neurons: zeros stay, and so does the order."""
    size = values.square().mean((-2, -1), keepdim=True).sqrt()
    return torch.where(size > 0, values / size, values)


def _log_share(values: Tensor) -> Tensor:
    return values.flatten(-2).log_softmax(-1).view(values.shape)


def over_positions(values: Tensor, *, how: Literal["mean", "max"]) -> Tensor:
    """(L, P, d) to (L, d)."""
    if values.shape[1] == 1:
        return values[:, 0]
    return values.mean(1) if how == "mean" else values.amax(1)


def _one_of(tokens: Tensor, ids: Collection[int]) -> Tensor:
    """Which tokens are among the few `ids`: a comparison each is ten times as fast as `torch.isin`."""
    if not ids:
        return torch.zeros_like(tokens, dtype=torch.bool)
    return reduce(torch.logical_or, (tokens == token for token in sorted(ids)))
