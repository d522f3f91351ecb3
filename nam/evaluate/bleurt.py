"""BLEURT: a learned rating of a text against a reference (Sellam et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nam.errors import InputError, ModelError
from nam.evaluate.checkpoints import column, find_checkpoint, read_checkpoint_tokenizer, read_model

_BATCH = 64


@dataclass(frozen=True, eq=False, kw_only=True)
class TextRating:
    """What a sequence-regression model gives a pair: one number for the reference followed by the candidate.

    Attributes:
        measure: What tables call the measure.
        model: A transformers sequence classifier with one label, frozen.
        tokenizer: Its tokenizer.
        checkpoint: What tables call the model.
    """

    measure: str
    model: Any
    tokenizer: Any
    checkpoint: str

    @property
    def column(self) -> str:
        """The name of its column: "bleurt[Elron/bleurt-base-512]"."""
        return column(self.measure, self.checkpoint)

    @torch.no_grad()
    def __call__(self, candidates: Sequence[str], references: Sequence[str]) -> Tensor:
        """The rating of each candidate against its reference, float32 (B,), not clipped.

        Raises:
            InputError: there are more of one than of the other.
        """
        if len(candidates) != len(references):
            raise InputError(f"expected a reference a candidate, got {len(references)} for {len(candidates)}")
        most = min(int(self.tokenizer.model_max_length), int(self.model.config.max_position_embeddings))
        found = [torch.zeros(0)]
        for start in range(0, len(candidates), _BATCH):
            encoded = self.tokenizer(
                list(references[start : start + _BATCH]),
                list(candidates[start : start + _BATCH]),
                padding=True,
                truncation=True,
                max_length=most,
                return_tensors="pt",
            )
            inputs = {name: values.to(self.model.device) for name, values in encoded.items()}
            found.append(self.model(**inputs).logits[:, 0].float().cpu())
        return torch.cat(found)


def load_bleurt(checkpoint: str | Path, *, device: str = "cpu") -> TextRating:
    """BLEURT by a published port's hub id or folder, such as "Elron/bleurt-base-512".

    Raises:
        ModelError: there is no such checkpoint, it is damaged, or no regression.
        ConfigError: there is no such device.
    """
    return load_rating("bleurt", checkpoint, device=device)


def load_rating(
    measure: str, checkpoint: str | Path, *, part: str | None = None, device: str = "cpu"
) -> TextRating:
    """A learned rating under the name that tables give it.

    Args:
        measure: That name.
        checkpoint: A hub id or folder.
        part: Where the model is in a folder that holds a whole MLLM.
        device: Where the model goes.

    Raises:
        ModelError, ConfigError: as `load_bleurt`.
    """
    from transformers import AutoModelForSequenceClassification

    found = find_checkpoint(checkpoint, part=part)
    model = read_model(AutoModelForSequenceClassification, found, device=device)
    if model.config.num_labels != 1:
        raise ModelError(f"{measure} is one number, {found.source} gives {model.config.num_labels}")
    tokenizer = read_checkpoint_tokenizer(found)
    return TextRating(measure=measure, model=model, tokenizer=tokenizer, checkpoint=found.name)
