"""The judge: an independent classifier of noun, colour and place, for evaluations alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from nam.evaluate.judge import CLASSES_PER_NOUN, split_logits
from nam.modules.part import Part, save_half
from nam.world.scene import NOUNS, PLACES


class JudgePart(Part):
    """Trains transformers' ResNetForImageClassification on rendered scenes.

    It answers for every noun: absent, or present in which colour; and which place. `model` holds
    ResNetConfig's arguments.
    """

    def __init__(self, *, model: dict[str, Any], **optimiser: Any) -> None:
        super().__init__(**optimiser)
        from transformers import ResNetConfig, ResNetForImageClassification

        labels = len(NOUNS) * CLASSES_PER_NOUN + len(PLACES)
        self.model = ResNetForImageClassification(ResNetConfig(**{**model, "num_labels": labels}))

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        presence, place = split_logits(self.model(pixel_values=batch["pixels"]).logits)
        presence_loss = F.cross_entropy(presence.flatten(0, 1), batch["presence"].flatten())
        place_loss = F.cross_entropy(place, batch["place"])
        return {
            "loss": len(NOUNS) * presence_loss + place_loss,
            "things_right": (presence.argmax(-1) == batch["presence"]).all(-1).float().mean(),
            "place_right": (place.argmax(-1) == batch["place"]).float().mean(),
        }

    def export(self, folder: Path) -> None:
        save_half(self.model, folder / "judge")
