"""Batches of the world's text for the language model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from nam.data.batches import Batch
from nam.world.corpus import Text, sample_text
from nam.world.scene import NOUNS
from nam.world.tokenizer import build_tokenizer
from nam.world.words import PLURALS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_POOL = 8  # batches drawn at once, so that one batch can hold texts of like length


@dataclass(frozen=True)
class Texts:
    """input_ids, attention_mask, answer_mask (B, T), prompted (B,): whether a prompt precedes the
    answer; ignorant_ids (B, T): the same with random nouns in the answers that take knowledge.

    A text is </s>, prompt, answer, </s>, padded on the right; answer_mask covers the answer and the last
    </s>. The val split is of training phrasings on scenes never trained on; held_out asks for phrasings never
    trained on.
    """

    held_out: bool = False

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        return build_tokenizer()

    def __call__(self, rng: np.random.Generator, n: int, split: str) -> Batch:
        pool = [sample_text(rng, held_out=self.held_out, split=split) for _ in range(_POOL * n)]
        pool.sort(key=lambda text: len(text.prompt) + len(text.answer))
        start = n * int(rng.integers(_POOL))
        return self.encode(pool[start : start + n], rng)

    @cached_property
    def noun_ids(self) -> tuple[list[int], list[int]]:
        """Token ids of the nouns, singular and plural."""
        ids = self.tokenizer.get_vocab()
        return [ids[noun] for noun in NOUNS], [ids[noun] for noun in PLURALS.values()]

    def encode(self, texts: list[Text], rng: np.random.Generator) -> Batch:
        """The batch of given texts; rng draws the nouns of ignorant_ids."""
        eos, pad = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
        prompts = self.tokenizer([t.prompt for t in texts], add_special_tokens=False)["input_ids"]
        answers = self.tokenizer([t.answer for t in texts], add_special_tokens=False)["input_ids"]
        length = 2 + max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
        ids = torch.full((len(texts), length), pad)
        answer_mask = torch.zeros(len(texts), length, dtype=torch.bool)
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            whole = [eos, *prompt, *answer, eos]
            ids[row, : len(whole)] = torch.tensor(whole)
            answer_mask[row, 1 + len(prompt) : len(whole)] = True
        knows = torch.tensor([t.knows for t in texts])
        ignorant = ids.clone()
        for nouns in self.noun_ids:
            known = torch.isin(ids, torch.tensor(nouns)) & answer_mask & knows[:, None]
            ignorant[known] = torch.from_numpy(rng.choice(nouns, size=int(known.sum())))
        return {
            "input_ids": ids,
            "ignorant_ids": ignorant,
            "attention_mask": (ids != pad).long(),
            "answer_mask": answer_mask,
            "prompted": torch.tensor([bool(t.prompt) for t in texts]),
        }
