"""CLIPSeg: a heat map of any words (Lueddecke and Ecker 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from nam.errors import ConfigError
from nam.segmenter.base import Mask
from nam.segmenter.pretrained import PretrainedSegmenter, enlarge
from nam.types import Concept


@dataclass(frozen=True, kw_only=True, eq=False)
class ClipSegSegmenter(PretrainedSegmenter):
    """Where CLIPSeg's probability of the concept's name is above the threshold; the score is its mean there.

    Attributes:
        prompt: What is asked for; {} stands for the name.
    """

    threshold: float = 0.4
    prompt: str = "a photo of a {}"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_prompt(self.prompt)

    @property
    def model_class(self) -> Any:
        from transformers import CLIPSegForImageSegmentation

        return CLIPSegForImageSegmentation

    def locate(self, images: Sequence[Image.Image], concepts: Sequence[Concept]) -> list[Mask]:
        words = self.tokenizer(
            [self.prompt.format(concept.name) for concept in concepts],
            padding=True,
            truncation=True,
            max_length=self.model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        )
        inputs = {key: words[key] for key in ("input_ids", "attention_mask")}
        pixels = self.processor(images=list(images), return_tensors="pt")["pixel_values"]
        logits = self.model(**self.place({**inputs, "pixel_values": pixels})).logits
        rows = logits.reshape(len(images), 1, *logits.shape[-2:])
        found = enlarge(rows.float().sigmoid(), (images[0].height, images[0].width))[:, 0]
        return [self.mask_of(one > self.threshold, one) for one in found]


def check_prompt(prompt: str) -> None:
    """Refuse a prompt without a place for the concept. Raises ConfigError."""
    try:
        fits = "horse" in prompt.format("horse")
    except (IndexError, KeyError, ValueError):
        fits = False
    if not fits:
        raise ConfigError(f"segmenter.prompt needs {{}} where the concept's name goes, got {prompt!r}")
