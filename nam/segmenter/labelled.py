"""Mask2Former, OneFormer and EoMT: a label of a fixed list for every pixel."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from nam.errors import ModelError
from nam.segmenter.base import Mask
from nam.segmenter.labels import STUFF, THINGS, labels_of
from nam.segmenter.pretrained import PretrainedSegmenter, enlarge
from nam.types import Concept


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelSegmenter(PretrainedSegmenter):
    """Where the concept's labels together are likelier than any other label, and above the threshold.

    A pixel's probability of a label is the sum over queries of the label's probability times the mask's
    (Cheng et al. 2021, semantic inference); the score of a mask is its mean there.

    Attributes:
        labels: Words with the labels that they stand for, beside those of `nam.segmenter.labels`;
            None for no others.
    """

    labels: Mapping[str, Sequence[str]] | None = None

    @property
    def model_class(self) -> Any:
        from transformers import AutoModelForUniversalSegmentation

        return AutoModelForUniversalSegmentation

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The model's labels, in its order; COCO's where the model gives as many numbers and no names.

        Raises:
            ModelError: it gives neither.
        """
        found = tuple(name for _, name in sorted(self.model.config.id2label.items()))
        if not all(re.fullmatch(r"LABEL_\d+", name) for name in found):
            return found
        if len(found) not in (len(THINGS), len(THINGS) + len(STUFF)):
            raise ModelError(f"{self.id} names none of its {len(found)} labels: set segmenter.id to another")
        return (*THINGS, *STUFF)[: len(found)]

    def check(self, concept: Concept) -> None:
        labels_of(concept, self.names, self.labels)

    @cached_property
    def processor(self) -> Any:
        """OneFormer's also wants a list of classes for training, which is not fetched."""
        from transformers import AutoImageProcessor

        settings = {"class_info_file": None} if self.model.config.model_type == "oneformer" else {}
        processor = self.read_processor(AutoImageProcessor, backend="pil", **settings)
        if getattr(processor, "do_split_image", False):
            raise ModelError(f"{self.id} reads pictures in pieces: set segmenter.id to a panoptic model")
        return processor

    def locate(self, images: Sequence[Image.Image], concepts: Sequence[Concept]) -> list[Mask]:
        inputs, size = self._read(images)
        out = self.model(**self.place(inputs))
        classes = out.class_queries_logits.float().softmax(-1)[..., :-1]  # the last class is: nothing
        shares = torch.einsum("bqc,bqhw->bchw", classes, out.masks_queries_logits.float().sigmoid())
        rows = []
        for concept, some in zip(concepts, shares, strict=True):
            places = list(labels_of(concept, self.names, self.labels))
            own = some[places].sum(0)
            others = some.index_fill(0, torch.tensor(places, device=some.device), 0.0).amax(0)
            rows.append(torch.stack((own, own - others)))
        maps = _without_padding(torch.stack(rows), inputs["pixel_values"].shape[-2:], size)
        found = enlarge(maps, (images[0].height, images[0].width))
        return [self.mask_of((lead > 0) & (own > self.threshold), own) for own, lead in found]

    def _read(self, images: Sequence[Image.Image]) -> tuple[dict[str, Tensor], tuple[int, int]]:
        """What the model reads, and the height and width of the pictures in it, without padding."""
        if self.model.config.model_type != "oneformer":
            inputs = dict(self.processor(images=list(images), return_tensors="pt"))
        else:
            task = ["semantic"] * len(images)
            inputs = dict(self.processor(images=list(images), task_inputs=task, return_tensors="pt"))
            words = self.tokenizer(
                [f"the task is {one}" for one in task],
                padding="max_length",
                truncation=True,
                max_length=self.model.config.task_seq_len,
                return_tensors="pt",
            )
            inputs["task_inputs"] = words["input_ids"] * words["attention_mask"]
        pixels = inputs["pixel_values"] = torch.as_tensor(inputs["pixel_values"])
        if not getattr(self.processor, "do_pad", False) or "pixel_mask" in inputs:
            return inputs, (pixels.shape[-2], pixels.shape[-1])
        from transformers.image_transforms import get_size_with_aspect_ratio

        size, image = self.processor.size, images[0]
        shape = (image.height, image.width)
        height, width = get_size_with_aspect_ratio(shape, size["shortest_edge"], size["longest_edge"])
        return inputs, (height, width)


def _without_padding(maps: Tensor, padded: Sequence[int], size: tuple[int, int]) -> Tensor:
    """The part of maps (n, c, h, w) of padded pictures that shows the picture, which is at the top left."""
    if tuple(padded) == size:
        return maps
    return enlarge(maps, (padded[0], padded[1]))[..., : size[0], : size[1]]
