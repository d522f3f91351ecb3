"""The masks that a picture came with, for pictures that show what was asked about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from nam.errors import InputError, nearest
from nam.segmenter.base import GivenMasks, Mask, Segmenter
from nam.segmenter.labels import THINGS, labels_of
from nam.segmenter.names import class_of
from nam.types import Concept
from nam.world.scene import NOUNS


@dataclass(frozen=True, kw_only=True, eq=False)
class TruthSegmenter(Segmenter):
    """Passes on the masks of `nam.world.render` or of COCO: of things, not of places.

    Attributes:
        resize: Stretch masks to a picture of another size, as where a model draws a photograph again.
    """

    resize: bool = False

    def check(self, concept: Concept) -> None:
        names_of(concept)

    def find(
        self, images: Sequence[Image.Image], concepts: Sequence[Concept], given: Sequence[GivenMasks | None]
    ) -> list[Mask]:
        return [self._find(*row) for row in zip(images, concepts, given, strict=True)]

    def _find(self, image: Image.Image, concept: Concept, given: GivenMasks | None) -> Mask:
        if given is None:
            raise InputError(
                "segmenter=truth knows no mask of this picture: masks come with pictures that are asked "
                "about, which only some prompts ask to draw again (data.source.same=1 of the scenes, "
                "data.source.kinds=[again] of COCO); set segmenter=scenes, or sam3 for photographs"
            )
        size = (image.height, image.width)
        pixels = np.zeros(size, dtype=np.bool_)
        for name in names_of(concept):
            if name not in given:  # masks of all things came along, so this one is not in the picture
                continue
            mask = np.asarray(given[name], dtype=np.uint8)
            if mask.shape != size and not self.resize:
                raise InputError(
                    f"expected a given mask of the picture's size {size}, got {mask.shape}; "
                    "segmenter.resize=true stretches it"
                )
            if mask.shape != size:
                mask = np.asarray(cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST))
            pixels |= mask.astype(np.bool_)
        return Mask(pixels, float(pixels.any()))


def names_of(concept: Concept) -> tuple[str, ...]:
    """What true masks call a concept: a thing of the scenes, else things of COCO.

    Raises:
        InputError: it is neither.
    """
    try:
        return (class_of(concept, NOUNS),)
    except InputError:
        pass
    try:
        return tuple(THINGS[place] for place in labels_of(concept, THINGS))
    except InputError as error:
        hint = nearest(concept.name.lower(), (*NOUNS, *THINGS))
        raise InputError(
            f"segmenter=truth does not know {concept.name!r} ({hint}); it knows the things of the scenes "
            f"({', '.join(NOUNS)}) and COCO's 80"
        ) from error
