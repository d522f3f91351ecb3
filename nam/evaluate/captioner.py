"""Captions of pictures by a captioning model, for measures that compare words with what was drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nam.errors import ModelError
from nam.evaluate.checkpoints import find_checkpoint, read_checkpoint_tokenizer, read_model
from nam.mllm.parts import quiet_hub
from nam.mllm.pictures import Picture, read_picture

_BATCH = 16


@dataclass(frozen=True, eq=False, kw_only=True)
class Captioner:
    """A model of transformers that says what a picture shows, greedily: BLIP, GIT and others of their kind,
    which need no prompt.

    Attributes:
        model: Frozen, with `generate(pixel_values=...)`.
        processor: An image processor.
        tokenizer: Of its words.
        checkpoint: What tables call it.
        max_new_tokens: Most tokens of a caption.
    """

    model: Any
    processor: Any
    tokenizer: Any
    checkpoint: str
    max_new_tokens: int = 30

    @torch.no_grad()
    def __call__(self, pictures: Sequence[Picture]) -> list[str]:
        """A caption of each picture; "" where the model says nothing.

        Raises:
            InputError: a picture cannot be read.
        """
        found: list[str] = []
        for start in range(0, len(pictures), _BATCH):
            some = [read_picture(picture) for picture in pictures[start : start + _BATCH]]
            parameter = next(self.model.parameters())
            pixels = torch.as_tensor(self.processor(images=some, return_tensors="pt")["pixel_values"])
            ids = self.model.generate(
                pixel_values=pixels.to(parameter), max_new_tokens=self.max_new_tokens, do_sample=False
            )
            texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
            found += [" ".join(text.split()) for text in texts]
        return found


def load_captioner(checkpoint: str | Path, *, device: str = "cpu", max_new_tokens: int = 30) -> Captioner:
    """A captioning model by its hub id or folder, such as "Salesforce/blip-image-captioning-large".

    Raises:
        ModelError: there is no such checkpoint, it is damaged, or no model that turns pictures into text.
        ConfigError: there is no such device.
    """
    from transformers import AutoImageProcessor, AutoModelForImageTextToText

    found = find_checkpoint(checkpoint)
    model = read_model(AutoModelForImageTextToText, found, device=device)
    try:
        with quiet_hub():
            processor = AutoImageProcessor.from_pretrained(
                found.source, backend="pil", local_files_only=found.local
            )
    except Exception as error:  # missing and damaged files surface as a handful of types
        raise ModelError(f"cannot read the image processor of {found.source}: {error}") from error
    return Captioner(
        model=model,
        processor=processor,
        tokenizer=read_checkpoint_tokenizer(found),
        checkpoint=found.name,
        max_new_tokens=max_new_tokens,
    )
