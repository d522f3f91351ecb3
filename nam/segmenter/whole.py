"""No segmenter: the whole picture, for comparing methods with and without a region."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from nam.segmenter.base import GivenMasks, Mask, Segmenter
from nam.types import Concept


@dataclass(frozen=True, kw_only=True, eq=False)
class WholeSegmenter(Segmenter):
    """Every pixel belongs to every concept."""

    def find(
        self, images: Sequence[Image.Image], concepts: Sequence[Concept], given: Sequence[GivenMasks | None]
    ) -> list[Mask]:
        return [Mask(np.ones((image.height, image.width), dtype=np.bool_), 1.0) for image in images]
