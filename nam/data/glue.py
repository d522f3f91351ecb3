"""Batches for GILL's glue: pictures and words in, words and the generator's conditioning out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from nam.data.batches import Batch
from nam.data.scenes import Draw, to_pixels
from nam.mllm.parts import read_tokenizer
from nam.types import PICTURE_ID
from nam.world.corpus import sample_text
from nam.world.dialogues import exchange
from nam.world.render import render
from nam.world.scene import Scene
from nam.world.tokenizer import encode_captions
from nam.world.words import pick

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_SEEN = ("what", "caption", "caption", "same", "same", "colour", "where")


@dataclass(frozen=True)
class GlueSamples:
    """Dialogues, `seen` of them about a picture.

    A batch: input_ids, attention_mask, answer_mask (B, T), padded on the left, PICTURE_ID at the places of
    the visual tokens; pixels (P, 3, 64, 64) of the rows that see a picture; draws (B,), whether a picture is
    answered; caption_ids, caption_mask (D, 16) of what the D answered pictures show.
    `weights_dir` holds language_model and clip.

    In rows that draw, the answer is followed by img_tokens places, of which the first is to be predicted.
    """

    draw: Draw
    weights_dir: str
    seen: float = 0.5
    n_visual_tokens: int = 5
    img_tokens: int = 8

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        return read_tokenizer(Path(self.weights_dir) / "language_model")

    @cached_property
    def clip_tokenizer(self) -> PreTrainedTokenizerFast:
        return read_tokenizer(Path(self.weights_dir) / "clip")

    def __call__(self, rng: np.random.Generator, n: int, split: str) -> Batch:
        count = round(self.seen * n)
        scenes = self.draw.scenes(rng, count, split)
        seen = [self._about(scene, rng) for scene in scenes]
        told = [self._told(rng, split) for _ in range(n - count)]
        batch = self._encode([*seen, *told], pictures=count)
        images = [render(scene, rng=rng).image for scene in scenes]
        batch["pixels"] = to_pixels(np.stack(images)) if images else torch.zeros(0, 3, 64, 64)
        return batch

    def _about(self, scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
        said = exchange(scene, rng, kind=pick(rng, _SEEN))
        return said.prompt, said.answer

    def _told(self, rng: np.random.Generator, split: str) -> tuple[str, str]:
        while True:
            text = sample_text(rng, split=split)
            # statements have no prompt; texts about pictures stand in `seen`
            if text.prompt and not text.kind.startswith("seen"):
                return text.prompt, text.answer

    def _encode(self, pairs: list[tuple[str, str]], *, pictures: int) -> Batch:
        eos, pad = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
        draws = [answer.endswith(":") for _, answer in pairs]
        img = [len(self.tokenizer) + i for i in range(self.img_tokens)]
        prompts = self.tokenizer([prompt for prompt, _ in pairs], add_special_tokens=False)["input_ids"]
        answers = self.tokenizer([answer for _, answer in pairs], add_special_tokens=False)["input_ids"]
        rows = []
        for index, (prompt, answer, draw) in enumerate(zip(prompts, answers, draws, strict=True)):
            places = [PICTURE_ID] * self.n_visual_tokens if index < pictures else []
            rows.append(([eos, *places, *prompt], [*answer, *(img if draw else [eos])]))
        length = max(len(before) + len(after) for before, after in rows)
        ids = torch.full((len(rows), length), pad)
        mask = torch.zeros(len(rows), length, dtype=torch.long)
        answer_mask = torch.zeros(len(rows), length, dtype=torch.bool)
        for row, (before, after) in enumerate(rows):
            whole = [*before, *after]
            ids[row, -len(whole) :] = torch.tensor(whole)
            mask[row, -len(whole) :] = 1
            answer_mask[row, -len(after) :] = True
            if draws[row]:  # only the first [IMG] token is predicted, the others follow by themselves
                answer_mask[row, -self.img_tokens + 1 :] = False
        shown = [
            answer.removeprefix("here is ").removesuffix(" :")
            for (_, answer), d in zip(pairs, draws, strict=True)
            if d
        ]
        caption_ids, caption_mask = encode_captions(self.clip_tokenizer, shown)
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "answer_mask": answer_mask,
            "draws": torch.tensor(draws),
            "caption_ids": caption_ids,
            "caption_mask": caption_mask,
        }
