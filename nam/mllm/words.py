"""The words that a neuron writes: those its value vector makes most likely."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nam.checks import whole
from nam.errors import InputError
from nam.mllm.base import MLLM
from nam.mllm.norm import arriving
from nam.types import Neuron

#: Neurons that are looked up at once.
_NEURONS = 1_024

#: Rows of the unembedding that are taken at once.
_ROWS = 8_192


class WordBook:
    """The words with the highest logits W_u W_out[:, k] (paper, semantic relevance), most likely first.

    Where a norm stands between FFN and residual stream, the value vector is taken behind its gain.
    Words that read the same once blanks are cut off count once; special tokens (padding, begin and end,
    [IMG0]) are no words. Each neuron is looked up once.

    Args:
        mllm: The model; its weights must not change.
        count: Most words of a neuron.

    Raises:
        InputError: the count is no integer of at least 1.
    """

    def __init__(self, mllm: MLLM, *, count: int = 5) -> None:
        self._mllm = mllm
        self._count = whole("words of a neuron", count, least=1)
        self._vocabulary = _vocabulary(mllm.tokenizer, len(mllm.unembedding))
        self._known: dict[Neuron, tuple[str, ...]] = {}

    def __call__(self, neurons: Sequence[Neuron]) -> list[tuple[str, ...]]:
        """The words of each neuron.

        Raises:
            InputError: the model has no such neuron.
        """
        new = [neuron for neuron in dict.fromkeys(neurons) if neuron not in self._known]
        for start in range(0, len(new), _NEURONS):
            some = new[start : start + _NEURONS]
            self._known.update(zip(some, self._look_up(some), strict=True))
        return [self._known[neuron] for neuron in neurons]

    @torch.inference_mode()
    def _look_up(self, neurons: Sequence[Neuron]) -> list[tuple[str, ...]]:
        sites = self._mllm.ffn_sites
        for neuron in neurons:
            if neuron.layer >= len(sites) or neuron.unit >= sites[neuron.layer].width:
                last = Neuron(len(sites) - 1, sites[-1].width - 1)
                raise InputError(f"{self._mllm.name} has no neuron {neuron}: its last is {last}")
        vectors = self._vectors(neurons)
        best = _best_tokens(vectors, self._mllm.unembedding, self._vocabulary, count=4 * self._count)
        return [tuple(dict.fromkeys(self._vocabulary[token] for token in row))[: self._count] for row in best]

    def _vectors(self, neurons: Sequence[Neuron]) -> Tensor:
        """Their value vectors as they arrive in the residual stream, (N, H) float32."""
        unembedding, device = self._mllm.unembedding, self._mllm.device
        found = torch.empty(len(neurons), unembedding.shape[1], device=device)
        layers, units = torch.tensor([(neuron.layer, neuron.unit) for neuron in neurons]).T
        for layer in layers.unique().tolist():
            site, mine = self._mllm.ffn_sites[layer], layers == layer
            vectors = site.columns(units[mine]).to(site.device).float().T.contiguous()
            found[mine.to(device)] = (vectors if site.straight else arriving(site, vectors)).to(device)
        return found


def _best_tokens(
    vectors: Tensor, unembedding: Tensor, words: dict[int, str], *, count: int
) -> list[list[int]]:
    """Ids of the words with the highest logits of each vector (N, H); equal logits in order of their ids."""
    allowed = torch.tensor(sorted(words), device=vectors.device)
    logits = vectors.new_empty((len(vectors), 0))
    tokens = torch.empty((len(vectors), 0), dtype=torch.long, device=vectors.device)
    for part in allowed.split(_ROWS):
        new = vectors @ unembedding[part].to(vectors).T
        logits = torch.cat([logits, new], dim=1)
        tokens = torch.cat([tokens, part.expand(len(vectors), -1)], dim=1)
        order = logits.sort(dim=1, descending=True, stable=True).indices[:, :count]
        logits, tokens = logits.gather(1, order), tokens.gather(1, order)
    rows: list[list[int]] = tokens.tolist()
    return rows


def _vocabulary(tokenizer: Any, size: int) -> dict[int, str]:
    """Token id -> the word as one reads it, for every token that is a word."""
    special = {id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
    special |= set(tokenizer.all_special_ids)
    ids = sorted(token for token in tokenizer.get_vocab().values() if token < size and token not in special)
    read = tokenizer.batch_decode([[token] for token in ids], clean_up_tokenization_spaces=False)
    return {token: word.strip() for token, word in zip(ids, read, strict=True) if word.strip()}
