"""Greedy decoding of a batch of prompts of different lengths, with the signal tokens of what is drawn."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nam.mllm.layout import Layout
from nam.types import Finish, Medium

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel


@dataclass(frozen=True, eq=False)
class Signalled:
    """Rows of a batch that announce what one medium draws.

    Attributes:
        medium: Which.
        rows: Rows whose answer goes on with the medium's signal tokens, such as [IMG0] to [IMG7].
        hidden: Last hidden states at those rows' P signal tokens: (len(rows), P, H).
    """

    medium: Medium
    rows: list[int]
    hidden: Tensor


@dataclass(frozen=True, eq=False)
class Decoded:
    """Answers of a batch.

    Attributes:
        answers: Token ids of each answer in words; neither end token nor signal tokens.
        finish: Why each ended.
        signalled: What is to be drawn; no row twice.
    """

    answers: list[list[int]]
    finish: list[Finish]
    signalled: list[Signalled]


def positions_of(mask: Tensor) -> Tensor:
    """Position of each token among those that the attention mask (B, T) keeps; 0 at padding."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def last_hidden(
    model: PreTrainedModel, inputs_embeds: Tensor, mask: Tensor, positions: Tensor, cache: Cache | None = None
) -> Tensor:
    """Hidden states (B, T, H) that enter the unembedding, after the final norm.

    Args:
        model: A causal language model.
        inputs_embeds: The T newest tokens, (B, T, H).
        mask: Attention mask over the cached and the newest tokens, (B, S + T).
        positions: Of the newest tokens, (B, T).
        cache: Keys and values of the S earlier tokens; extended in place. None: nothing is kept.
    """
    out = model.get_decoder()(
        inputs_embeds=inputs_embeds,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=cache is not None,
    )
    hidden: Tensor = out.last_hidden_state
    return hidden


@torch.no_grad()
def decode_greedily(
    model: PreTrainedModel,
    *,
    inputs_embeds: Tensor,
    mask: Tensor,
    limits: Sequence[int],
    end_ids: Sequence[int],
    signals: Mapping[Medium, Sequence[int]],
    banned_ids: Sequence[int],
    force: Medium | None,
    announce: Callable[[Layout], None] = lambda layout: None,
) -> Decoded:
    """Continue left-padded prompts with the likeliest token each, until every row has ended.

    A row ends at its end token, at its limit, or at a medium's first signal token such as [IMG0], and what
    the others still do does not change it: a row that has ended is fed tokens that nobody sees. All signal
    tokens of a medium are then read in one forward pass.

    Args:
        model: A causal language model.
        inputs_embeds: Prompts (B, T, H), padded on the left.
        mask: Their attention mask (B, T).
        limits: Most words of each row's answer, at least 1.
        end_ids: What ends an answer, and is not part of it.
        signals: The signal tokens of each medium, in order.
        banned_ids: Tokens that are never chosen.
        force: A medium whose signal tokens every row goes on with, however it ended; no other is announced.
        announce: Told before each forward pass which tokens it reads.
    """
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    embed, head = model.get_input_embeddings(), model.get_output_embeddings()
    first = {ids[0]: medium for medium, ids in signals.items() if force in (None, medium)}
    silent = [token for ids in signals.values() for token in ids if token not in first]
    banned = torch.tensor([*banned_ids, *silent], device=mask.device)
    announced: list[Medium | None] = [force] * len(limits)
    answers: list[list[int]] = [[] for _ in limits]
    finish: list[Finish | None] = [None] * len(limits)
    announce(layout := Layout.of_mask(mask))
    hidden = last_hidden(model, inputs_embeds, mask, positions_of(mask), cache)
    while None in finish:
        logits = head(hidden[:, -1]).index_fill(-1, banned, float("-inf"))
        chosen = logits.argmax(-1).tolist()
        added = [0] * len(limits)
        for row, token in enumerate(chosen):
            if finish[row] is not None:
                continue
            if token in first:
                finish[row], announced[row] = "img", first[token]
            elif token in end_ids:
                finish[row] = "stop"
            else:
                answers[row].append(token)
                added[row] = 1
                if len(answers[row]) == limits[row]:
                    finish[row] = "length"
        if not any(added):
            break
        # A row's last word is read as well: the [IMG] tokens look back at it.
        mask = torch.cat([mask, torch.tensor(added, device=mask.device)[:, None]], dim=1)
        newest = embed(torch.tensor(chosen, device=mask.device)[:, None])
        announce(layout := layout.then(added))
        hidden = last_hidden(model, newest, mask, positions_of(mask)[:, -1:], cache)
    ended: list[Finish] = [reason or "length" for reason in finish]
    signalled = []
    media = [medium for medium in signals if medium in announced]
    for medium in media:
        rows, ids = [row for row, found in enumerate(announced) if found == medium], signals[medium]
        announce(layout.then([len(ids)] * len(rows), rows=rows))
        kept = cache if medium == media[-1] else copy.deepcopy(cache)  # reading leaves the other rows out
        signalled.append(Signalled(medium, rows, _read(model, kept, mask=mask, rows=rows, ids=ids)))
    return Decoded(answers, ended, signalled)


def _read(
    model: PreTrainedModel, cache: Cache, *, mask: Tensor, rows: Sequence[int], ids: Sequence[int]
) -> Tensor:
    """Last hidden states (len(rows), len(ids), H) of tokens behind these rows."""
    chosen = torch.tensor(list(rows))  # on the CPU: each layer's keys may be on a device of their own
    cache.batch_select_indices(chosen)
    mask = torch.cat([mask[chosen], mask.new_ones(len(rows), len(ids))], dim=1)
    embeds = model.get_input_embeddings()(torch.tensor(list(ids), device=mask.device))
    inputs = embeds.expand(len(rows), -1, -1)
    return last_hidden(model, inputs, mask, positions_of(mask)[:, -len(ids) :], cache)
