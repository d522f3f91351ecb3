"""The interface of a segmenter: where in a picture is the concept?"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nam.errors import InputError
from nam.mllm.pictures import Picture, read_picture
from nam.types import Concept

#: Masks that come with a picture: noun -> bool (H, W).
GivenMasks = Mapping[str, NDArray[np.bool_]]


@dataclass(frozen=True, eq=False)
class Mask:
    """The pixels of a concept in a picture.

    Attributes:
        pixels: bool (H, W), of the picture's size; none is True where the concept was not found.
        score: How sure the segmenter is of them, from 0 to 1; 0 for an empty mask.
    """

    pixels: NDArray[np.bool_]
    score: float

    def __post_init__(self) -> None:
        if self.pixels.dtype != np.bool_ or self.pixels.ndim != 2:
            raise ValueError(f"expected a bool mask (H, W), got {self.pixels.dtype} {self.pixels.shape}")
        if not 0 <= self.score <= 1:
            raise ValueError(f"the score of a mask is from 0 to 1, got {self.score}")

    @property
    def empty(self) -> bool:
        """Whether the concept was not found."""
        return not self.pixels.any()

    @property
    def area(self) -> float:
        """Share of the picture that the mask covers."""
        return float(self.pixels.mean())


@dataclass(frozen=True, kw_only=True, eq=False)
class Segmenter(ABC):
    """Finds concepts in pictures. A subclass holds its options as fields and gives `find`."""

    def segment(
        self,
        images: Sequence[Picture],
        concepts: Sequence[Concept],
        *,
        given: Sequence[GivenMasks | None] | None = None,
    ) -> list[Mask]:
        """The mask of concept i in picture i, of that picture's size; empty where it is not found.

        Args:
            images: Pictures of any sizes.
            concepts: What to find, one for each picture.
            given: Masks that came with each picture, for segmenters that read them.

        Raises:
            InputError: a concept that this segmenter does not know, an unreadable picture, or lists of
                different lengths.
        """
        masks = [None] * len(images) if given is None else list(given)
        if not len(images) == len(concepts) == len(masks):
            raise InputError(
                f"expected a concept for each picture, got {len(images)} pictures, {len(concepts)} concepts "
                f"and {len(masks)} sets of given masks"
            )
        for concept in concepts:
            self.check(concept)
        return self.find([read_picture(image) for image in images], concepts, masks) if images else []

    @property
    def origin(self) -> Path | str | None:
        """Where its weights are: a folder, or a place on the hub; None for one without weights."""
        return None

    def check(self, concept: Concept) -> None:  # noqa: B027  (most concepts are welcome to most segmenters)
        """Refuse a concept that this segmenter does not know; needs no picture.

        Raises:
            InputError: it does not; the message names those it knows.
        """

    @abstractmethod
    def find(
        self, images: Sequence[Image.Image], concepts: Sequence[Concept], given: Sequence[GivenMasks | None]
    ) -> list[Mask]:
        """`segment` for RGB pictures and known concepts, as many of each and at least one."""
