"""What neurons add along the directions of targets, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nam.mllm.norm import pulled_back
from nam.mllm.products import linear
from nam.reduction.base import Context


def contributions_of(contexts: Sequence[Context], directions: Sequence[Tensor]) -> list[Tensor]:
    """What each neuron adds along each context's directions (P, H) at each position: (L, P, d) a context."""
    if not contexts:
        return []
    rows = torch.cat(list(directions))
    different, which = _distinct(rows)
    found = torch.cat([context.activations for context in contexts], dim=1)
    for site, a in zip(contexts[0].mllm.ffn_sites, found, strict=True):
        # Directions go to the layer's device, not its weights to theirs.
        vectors, at = site.value_vectors.detach(), site.device
        along = different.to(at) if site.straight else pulled_back(site, rows.to(at), a.to(at))
        # One product a layer for all directions; half-precision weights are widened one layer at a time.
        along = linear(along, vectors.to(rows.dtype).T).to(a.device)
        a.mul_(along[which] if site.straight and which is not None else along)
    return list(found.split([len(one) for one in directions], dim=1))


def _distinct(rows: Tensor) -> tuple[Tensor, Tensor | None]:
    """Rows without repetition, and where each is among them; None where hardly one repeats.

    An answer says some words again and again, and the product with all value vectors is what scoring costs.
    """
    different, which = torch.unique(rows, dim=0, return_inverse=True)
    return (different, which) if 4 * len(different) <= 3 * len(rows) else (rows, None)


def contributions_at(
    contexts: Sequence[Context], directions: Sequence[Tensor], masks: Sequence[Tensor]
) -> list[Tensor]:
    """`contributions_of` for the neurons in each context's mask (L, P, d), and 0 for all others.

    Where masks are sparse it costs next to nothing: only the value vectors of the chosen neurons are read.
    """
    if not contexts:
        return []
    if not all(site.straight for site in contexts[0].mllm.ffn_sites):
        # The scale of a norm behind the FFN takes every neuron of the layer.
        return [s * mask for s, mask in zip(contributions_of(contexts, directions), masks, strict=True)]
    different = {id(mask): mask for mask in masks}.values()
    chosen = torch.cat(list(different), dim=1).any(1)
    layers, units = chosen.nonzero(as_tuple=True)
    of_layer = units.split(chosen.sum(1).tolist())
    vectors = [
        site.columns(mine).detach().to(directions[0])
        for site, mine in zip(contexts[0].mllm.ffn_sites, of_layer, strict=True)
    ]
    projected = (torch.cat(list(directions)) @ torch.cat(vectors, dim=1)).split([len(d) for d in directions])
    found = []
    for context, mask, part in zip(contexts, masks, projected, strict=True):
        s = torch.zeros_like(context.activations)
        s[layers, :, units] = context.activations[layers, :, units] * mask[layers, :, units] * part.T
        found.append(s)
    return found
