"""The loop that draws pictures token by token, for a batch of prompts of different lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nam.mllm.decode import last_hidden, positions_of
from nam.mllm.layout import Layout
from nam.mllm.picture_tokens import Noise, Sampling

if TYPE_CHECKING:
    from nam.mllm.unified import Unified


@dataclass(frozen=True)
class Order:
    """A picture that is asked for.

    Attributes:
        words: What it should show.
        ids: The prompt, up to the first picture token.
        lead: How many of its tokens begin the picture.
        system: How many stand before the words.
        seed: Of the draw.
    """

    words: str
    ids: list[int]
    lead: int
    system: int
    seed: int


def draw_tokens(model: Unified, orders: Sequence[Order], sampling: Sampling) -> tuple[Tensor, Tensor | None]:
    """Draw a picture for each order; what becomes of one does not depend on the others.

    Guided sampling runs a second row for each, with the model's `free_ids`; hooks see the first alone. The
    last token is drawn but never read.

    Args:
        model: The model; it is told the layout of every pass.
        orders: What is asked, at least one.
        sampling: How tokens are chosen.

    Returns:
        Picture tokens (B, h, w), from 0; and, where the model keeps them, the last hidden states that
        predicted them, (B, h * w, H).
    """
    from transformers import DynamicCache

    sequences = [order.ids for order in orders]
    if sampling.guided:
        sequences += [model.free_ids(order.ids) for order in orders]
    batch = model.chat.collate(sequences, [], side="left", like=model.unembedding)
    mask, embed = batch["attention_mask"], model.language_model.get_input_embeddings()
    asked = [int(row < len(orders)) for row in range(len(mask))]
    layout, embeds = _layout(mask, orders), embed(batch["input_ids"])
    noise = Noise([order.seed for order in orders], size=model.codes)
    cache = DynamicCache(config=model.language_model.config.get_text_config(decoder=True))
    codes: list[Tensor] = []
    states: list[Tensor] = []
    columns = model.grid[1]
    for place in range(model.tokens_of_picture):
        model.announce(layout)
        positions = positions_of(mask)[:, -embeds.shape[1] :]
        newest = last_hidden(model.language_model, embeds, mask, positions, cache)[:, -1]
        if model.end_of_row is not None and place % (columns + 1) == columns:
            embeds = embed(mask.new_full((len(mask), 1), model.end_of_row))
        else:
            codes.append(sampling.choose(model.code_logits(newest), noise.next(mask.device)))
            states += [newest[: len(orders)]] if model.keeps_states else []
            embeds = model.embed_codes(codes[-1].repeat(len(mask) // len(orders))[:, None])
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        layout = layout.then(asked)
    return torch.stack(codes, 1).unflatten(1, model.grid), torch.stack(states, 1) if states else None


def in_reading_order(ids: Tensor, end_of_row: int | None) -> Tensor:
    """Grids of tokens (B, h, w) row by row, (B, T), with what ends each row but the last, if any."""
    if end_of_row is None:
        return ids.flatten(1)
    ends = ids.new_full((*ids.shape[:2], 1), end_of_row)
    return torch.cat([ids, ends], -1).flatten(1)[:, :-1]


def _layout(mask: Tensor, orders: Sequence[Order]) -> Layout:
    """The first pass over prompts, and behind them over what guidance reads: padding to hooks."""
    starts = [len(order.ids) - order.lead - 1 for order in orders]
    seen = Layout.of_mask(mask[: len(orders)], starts=starts)
    times = len(mask) // len(orders)
    positions = torch.cat([seen.positions, *[torch.full_like(seen.positions, -1)] * (times - 1)])
    return Layout(seen.rows * times, positions, seen.starts * times, seen.read * times)
