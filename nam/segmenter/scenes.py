"""The segmenter of the scenes: a SegFormer that was trained on renders of the world."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from nam.errors import ConfigError, ModelError
from nam.folders import weights_folder
from nam.mllm.parts import freeze, read_pretrained
from nam.mllm.pictures import to_pixels
from nam.segmenter.base import GivenMasks, Mask, Segmenter
from nam.segmenter.cleanup import clean
from nam.segmenter.names import class_of
from nam.types import Concept
from nam.world.scene import NOUNS, PLACES

#: Where the segmenter is, inside a model's folder.
SEGMENTER = "segmenter"

#: The things, then the places behind them: the order of the network's classes.
CLASSES = (*NOUNS, *PLACES)

#: Side of the pictures that it was trained on, in pixels.
SIDE = 64

_BATCH = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class SceneSegmenter(Segmenter):
    """Finds the 13 things and 6 places of the world.

    Attributes:
        folder: A weights folder with a `segmenter/`: a path, or one that the package ships.
        speck: Share of the picture below which a separate part of a mask is dropped, and a hole filled.
        device: Where the network runs.
    """

    folder: str = "tiny_gill"
    speck: float = 0.005
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not 0 <= self.speck < 1:
            raise ConfigError(f"segmenter.speck is a share of the picture, from 0 to 1, got {self.speck}")

    def check(self, concept: Concept) -> None:
        class_of(concept, CLASSES)

    @property
    def origin(self) -> Path:
        try:
            return weights_folder(self.folder) / SEGMENTER
        except ModelError as error:
            raise ModelError(f"{error}; set segmenter.folder") from error

    @cached_property
    def model(self) -> Any:
        """The network, read when first used.

        Raises:
            ModelError: the folder holds none, or one of other classes.
            ConfigError: the device cannot be used.
        """
        from transformers import SegformerForSemanticSegmentation

        path = self.origin
        with torch.inference_mode(False):  # weights made under it could be used nowhere else
            model: Any = freeze(read_pretrained(SegformerForSemanticSegmentation, path, torch.float32))
        found = tuple(model.config.id2label.values())
        if found != CLASSES:
            raise ModelError(f"{path}: expected the classes {', '.join(CLASSES)}, got {', '.join(found)}")
        try:
            return model.to(self.device)
        except (RuntimeError, AssertionError) as error:
            raise ConfigError(f"segmenter.device={self.device!r} cannot be used: {error}") from error

    def find(
        self, images: Sequence[Image.Image], concepts: Sequence[Concept], given: Sequence[GivenMasks | None]
    ) -> list[Mask]:
        masks = []
        for start in range(0, len(images), _BATCH):
            part = images[start : start + _BATCH]
            rows = zip(part, concepts[start : start + _BATCH], self.probabilities(part), strict=True)
            for image, concept, probabilities in rows:
                index = CLASSES.index(class_of(concept, CLASSES))
                masks.append(mask_of(probabilities, index, size=image.size, speck=self.speck))
        return masks

    @torch.no_grad()
    def probabilities(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Probability of each class at each pixel of the pictures at 64 x 64, (B, 19, 64, 64)."""
        half = (0.5, 0.5, 0.5)  # pixels in [-1, 1], as in training
        pixels = torch.stack([to_pixels(image, size=SIDE, mean=half, std=half) for image in images])
        logits: Tensor = self.model(pixel_values=pixels.to(self.device)).logits
        logits = F.interpolate(logits, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
        probabilities: NDArray[np.float32] = logits.softmax(1).cpu().numpy()
        return probabilities


def mask_of(probabilities: NDArray[np.float32], index: int, *, size: tuple[int, int], speck: float) -> Mask:
    """Where a class is the likeliest, without specks; its score is its mean probability there.

    Args:
        probabilities: Of each class, (K, h, w).
        index: The class.
        size: Width and height of the mask, in pixels.
        speck: As in `SceneSegmenter`.
    """
    own = probabilities[index]
    # Enlarging the lead over the best other class, and not K classes, keeps a large picture cheap.
    lead = own - np.delete(probabilities, index, axis=0).max(axis=0)
    lead, own = (cv2.resize(values, size, interpolation=cv2.INTER_LINEAR) for values in (lead, own))
    pixels = clean(np.asarray(lead > 0), speck=speck)
    score = float(own[pixels].mean(dtype=np.float64)) if pixels.any() else 0.0
    return Mask(pixels, min(score, 1.0))
