"""Greedy decoding of a batch of prompts of different lengths, with the [IMG] tokens of GILL."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nam.mllm.layout import Layout
from nam.types import Finish

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel


@dataclass(frozen=True, eq=False)
class Decoded:
    """Answers of a batch.

    Attributes:
        answers: Token ids of each answer in words; neither end token nor [IMG] tokens.
        finish: Why each ended.
        img_rows: Rows whose answer goes on with the [IMG] tokens.
        hidden: Last hidden states at those rows' [IMG] positions: (len(img_rows), 8, H).
    """

    answers: list[list[int]]
    finish: list[Finish]
    img_rows: list[int]
    hidden: Tensor


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
    img_ids: Sequence[int],
    banned_ids: Sequence[int],
    force_img: bool,
    announce: Callable[[Layout], None] = lambda layout: None,
) -> Decoded:
    """Continue left-padded prompts with the likeliest token each, until every row has ended.

    A row ends at its end token, at its limit, or at [IMG0], and what the others still do does not change it:
    a row that has ended is fed tokens that nobody sees. All [IMG] tokens are then read in one forward pass.

    Args:
        model: A causal language model.
        inputs_embeds: Prompts (B, T, H), padded on the left.
        mask: Their attention mask (B, T).
        limits: Most words of each row's answer, at least 1.
        end_ids: What ends an answer, and is not part of it.
        img_ids: The [IMG] tokens, in order.
        banned_ids: Tokens that are never chosen.
        force_img: Whether rows that ended without [IMG0] go on with the [IMG] tokens too.
        announce: Told before each forward pass which tokens it reads.
    """
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    embed, head = model.get_input_embeddings(), model.get_output_embeddings()
    banned = torch.tensor([*banned_ids, *img_ids[1:]], device=mask.device)
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
            if token == img_ids[0]:
                finish[row] = "img"
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
    img_rows = [row for row, reason in enumerate(ended) if force_img or reason == "img"]
    if img_rows:
        announce(layout.then([len(img_ids)] * len(img_rows), rows=img_rows))
    hidden_img = _read_img(model, cache, mask=mask, rows=img_rows, img_ids=img_ids)
    return Decoded(answers, ended, img_rows, hidden_img)


def _read_img(
    model: PreTrainedModel, cache: Cache, *, mask: Tensor, rows: Sequence[int], img_ids: Sequence[int]
) -> Tensor:
    embed = model.get_input_embeddings()
    ids = torch.tensor(list(img_ids), device=mask.device)
    if not rows:
        return embed(ids)[None][:0]
    chosen = torch.tensor(list(rows), device=mask.device)
    cache.batch_select_indices(chosen)
    mask = torch.cat([mask[chosen], mask.new_ones(len(rows), len(ids))], dim=1)
    inputs = embed(ids).expand(len(rows), -1, -1)
    return last_hidden(model, inputs, mask, positions_of(mask)[:, -len(ids) :], cache)
