"""Each neuron's first word: where the vocabulary is largest, or smallest, along its value vector."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from nam.mllm.norm import HeldNorm, arriving
from nam.mllm.products import linear
from nam.reduction.constants import once
from nam.reduction.folding import Norm, norm_to_fold

if TYPE_CHECKING:
    from nam.mllm.base import MLLM

log = logging.getLogger(__name__)

End = Literal["top", "bottom"]

#: Most logits that are held at once: few enough that the next step finds them in a cache.
CHUNK = 2**22


def first_tokens(mllm: MLLM, *, norm: Norm, end: End) -> Tensor:
    """The token with the largest ("top") or smallest logit under each neuron's value vector, (L, d) int64.

    A property of the weights alone: it is found once for a model, and again when the weights have changed.
    The position's scale of a norm, folded or behind the FFN, is positive and cannot change it.
    """

    def search() -> Tensor:
        began = time.perf_counter()
        folded = norm_to_fold(mllm) if norm == "fold" else None
        found = _search(mllm, folded, sign=1 if end == "top" else -1)
        if (spent := time.perf_counter() - began) > 1:
            log.info("the first word of every neuron took %.1f s, once for the model", spent)
        return found

    return once(mllm, ("first tokens", norm, end), search)


def _search(mllm: MLLM, norm: HeldNorm | None, *, sign: int) -> Tensor:
    """The token with the largest logit times `sign` along each value vector, (L, d)."""
    unembedding = mllm.unembedding
    dtype = torch.promote_types(unembedding.dtype, torch.float32)
    found = []
    for site in mllm.ffn_sites:
        vectors = sign * arriving(site, site.value_vectors.T.to(dtype)).to(unembedding.device)
        if norm is not None:
            # <centre(gain * u), w> = <u, gain * centre(w)>: done once, on the value vectors.
            vectors = norm.centre(vectors) * norm.gain
        best = vectors.new_full((site.width,), float("-inf"))
        tokens = torch.zeros(site.width, dtype=torch.long, device=vectors.device)
        step = max(CHUNK // site.width, 1)
        for start in range(0, len(unembedding), step):
            logits, token = linear(vectors, unembedding[start : start + step].to(vectors)).max(dim=1)
            # Of two equal tokens the earlier one stays, as in an argmax over all.
            tokens = torch.where(logits > best, token + start, tokens)
            best = torch.maximum(logits, best)
        found.append(tokens)
    return torch.stack(found)
