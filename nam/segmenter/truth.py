"""The masks that a rendered picture came with, for pictures that show the scene that was asked about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from nam.errors import InputError
from nam.segmenter.base import GivenMasks, Mask, Segmenter
from nam.segmenter.names import class_of
from nam.types import Concept
from nam.world.scene import NOUNS


@dataclass(frozen=True, kw_only=True, eq=False)
class TruthSegmenter(Segmenter):
    """Passes on the masks of `nam.world.render`: of things, not of places."""

    def check(self, concept: Concept) -> None:
        class_of(concept, NOUNS)

    def find(
        self, images: Sequence[Image.Image], concepts: Sequence[Concept], given: Sequence[GivenMasks | None]
    ) -> list[Mask]:
        return [_find(*row) for row in zip(images, concepts, given, strict=True)]


def _find(image: Image.Image, concept: Concept, given: GivenMasks | None) -> Mask:
    if given is None:
        raise InputError(
            "segmenter=truth knows no mask of this picture: masks come with rendered pictures, which only "
            "prompts of kind 'same' ask to draw again (data.source.same=1); set segmenter=scenes"
        )
    size = (image.height, image.width)
    pixels = given.get(class_of(concept, NOUNS))
    if pixels is None:  # masks of all things came along, so this one is not in the picture
        return Mask(np.zeros(size, dtype=np.bool_), 0.0)
    if pixels.shape != size:
        raise InputError(f"expected a given mask of the picture's size {size}, got {pixels.shape}")
    return Mask(pixels.astype(np.bool_), float(pixels.any()))
