"""SAM 3: every instance of a concept that is named in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from PIL import Image

from nam.errors import ConfigError
from nam.segmenter.base import Mask
from nam.segmenter.clipseg import check_prompt
from nam.segmenter.pretrained import PretrainedSegmenter, enlarge
from nam.types import Concept


@dataclass(frozen=True, kw_only=True, eq=False)
class Sam3Segmenter(PretrainedSegmenter):
    """The union of the instances that SAM 3 finds; the score is that of the surest one.

    An instance counts when its own probability times that of the concept being there is above the threshold.

    Attributes:
        prompt: What is asked for; {} stands for the concept's name.
        mask_threshold: Probability above which a pixel belongs to an instance.
    """

    prompt: str = "{}"
    mask_threshold: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_prompt(self.prompt)
        if not 0 <= self.mask_threshold < 1:
            raise ConfigError(f"segmenter.mask_threshold is a share below 1, got {self.mask_threshold}")

    @property
    def model_class(self) -> Any:
        from transformers import Sam3Model

        return Sam3Model

    @cached_property
    def processor(self) -> Any:
        """SAM 3's own needs torchvision; ViT's does the same: a square, bilinear, then mean and deviation."""
        from transformers import ViTImageProcessorPil

        return self.read_processor(ViTImageProcessorPil)

    def locate(self, images: Sequence[Image.Image], concepts: Sequence[Concept]) -> list[Mask]:
        words = self.tokenizer(
            [self.prompt.format(concept.name) for concept in concepts],
            padding="max_length",
            truncation=True,
            max_length=self.model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        )
        inputs = {key: words[key] for key in ("input_ids", "attention_mask")}
        pixels = self.processor(images=list(images), return_tensors="pt")["pixel_values"]
        out = self.model(**self.place({**inputs, "pixel_values": pixels}))
        sure = out.pred_logits.float().sigmoid() * out.presence_logits.float().sigmoid()
        kept = sure > self.threshold
        # The union of instances before it is enlarged: there may be hundreds of them.
        union = (out.pred_masks.float().sigmoid() * kept[..., None, None]).amax(dim=1, keepdim=True)
        inside = enlarge(union, (images[0].height, images[0].width))[:, 0] > self.mask_threshold
        best = (sure * kept).amax(dim=1)
        return [self.mask_of(one, score.expand_as(one)) for one, score in zip(inside, best, strict=True)]
