"""The segmenter of the scenes: which pixel is which thing or place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nam.modules.part import Part, save_half
from nam.world.scene import NOUNS, PLACES


class SegmenterPart(Part):
    """Trains transformers' SegformerForSemanticSegmentation on rendered scenes and their masks.

    Classes: the 13 things, then the 6 places behind them. `model` holds SegformerConfig's arguments.
    """

    def __init__(self, *, model: dict[str, Any], **optimiser: Any) -> None:
        super().__init__(**optimiser)
        from transformers import SegformerConfig, SegformerForSemanticSegmentation

        names = dict(enumerate((*NOUNS, *PLACES)))
        config = SegformerConfig(**model, id2label=names, label2id={name: i for i, name in names.items()})
        self.model = SegformerForSemanticSegmentation(config)

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        classes = batch["classes"]
        logits = self.model(pixel_values=batch["pixels"]).logits
        logits = F.interpolate(logits, size=classes.shape[-2:], mode="bilinear", align_corners=False)
        loss = F.cross_entropy(logits, classes)
        return {
            "loss": loss,
            "mean_iou": mean_iou(logits.argmax(1), classes, classes=len(NOUNS) + len(PLACES)),
        }

    def export(self, folder: Path) -> None:
        save_half(self.model, folder / "segmenter")


def mean_iou(predicted: Tensor, true: Tensor, *, classes: int) -> Tensor:
    """Intersection over union, averaged over the classes that occur in either (B, H, W) map."""
    both = torch.bincount(true.flatten() * classes + predicted.flatten(), minlength=classes * classes)
    table = both.view(classes, classes)
    hit = table.diag()
    union = table.sum(0) + table.sum(1) - hit
    return (hit[union > 0] / union[union > 0]).mean()
