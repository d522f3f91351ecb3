"""Unified-token models whose picture tokens are words of the one vocabulary: the head is linear."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from nam.errors import ModelError
from nam.mllm.unified import Unified


def codes_of(mapping: Mapping[int, int], *, count: int) -> list[int]:
    """The vocabulary's id of each of `count` picture tokens.

    Raises:
        ModelError: the model's config does not name all of them.
    """
    missing = sorted(set(range(count)) - mapping.keys())
    if missing:
        raise ModelError(
            f"config.json: vocabulary_map names {len(mapping)} of {count} picture tokens; the first that is "
            f"missing is {missing[0]}"
        )
    return [mapping[code] for code in range(count)]


class OneVocabulary(Unified):
    """A unified-token model with one embedding and one unembedding for words and pictures.

    Args:
        code_ids: The vocabulary's id of each picture token 0 to K - 1.
        settings: As of `Unified`.
    """

    code_ids: Tensor

    def __init__(self, *, code_ids: Sequence[int], **settings: Any) -> None:
        super().__init__(codes=len(code_ids), quiet_ids=code_ids, **settings)
        self.register_buffer("code_ids", torch.tensor(list(code_ids)), persistent=False)
        self._first, self._stop = min(code_ids), max(code_ids) + 1

    def _collate(
        self, ids: Sequence[Sequence[int]], inputs: Sequence[Mapping[str, Tensor]], *, side: str
    ) -> dict[str, Tensor]:
        """A picture that is asked about becomes its tokens here: by itself, so that no other pads it."""
        batch, model = self.chat.collate(ids, [], side=side, like=self.unembedding), self.language_model.model
        weight, found = next(model.vqmodel.parameters()), []
        for one in inputs:
            if "pixel_values" in one:
                sizes = (one["image_sizes"],) if "image_sizes" in one else ()
                found.append(model.get_image_tokens(one["pixel_values"].to(weight), *sizes).flatten())
        if found:
            read = batch["input_ids"]
            places = read.eq(cast(int, self.chat.picture_id))
            batch["input_ids"] = read.masked_scatter(places, torch.cat(found).to(read))
        return batch

    def code_logits(self, hidden: Tensor) -> Tensor:
        """See `Unified.code_logits`; straight from the unembedding, which a class may mask in its forward."""
        head = self.language_model.get_output_embeddings()
        bias = None if head.bias is None else head.bias[self._first : self._stop]
        # Picture tokens lie close together: their part of the unembedding is read in place.
        logits = nn.functional.linear(hidden, head.weight[self._first : self._stop], bias)
        return logits[..., self.code_ids - self._first]

    def embed_codes(self, codes: Tensor) -> Tensor:
        """See `Unified.embed_codes`."""
        embeds: Tensor = self.language_model.get_input_embeddings()(self.ids_of_codes(codes))
        return embeds

    def ids_of_codes(self, codes: Tensor) -> Tensor:
        """See `Unified.ids_of_codes`."""
        return self.code_ids[codes]

    def directions(self, ids: Tensor, states: Tensor | None) -> Tensor:
        """Rows of the unembedding."""
        rows = self.unembedding.detach()[ids]
        return rows.to(torch.promote_types(rows.dtype, torch.float32))
