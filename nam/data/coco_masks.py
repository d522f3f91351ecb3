"""Masks as COCO's annotation files write them: polygons, and run lengths down the columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nam.errors import InputError

#: Fractional bits of a polygon's corners, and how much finer than pixels it is filled.
_SHIFT, _FINER = 6, 4


def decode(segmentation: Any, *, height: int, width: int) -> NDArray[np.bool_]:
    """A `segmentation` of COCO's format, bool (H, W).

    Args:
        segmentation: A list of polygons [x1, y1, x2, y2, ...], or {"size": [H, W], "counts": run lengths}.
        height, width: Of the picture, in pixels.

    Raises:
        InputError: it is neither, or does not fit the picture.
    """
    if isinstance(segmentation, Mapping):
        return from_runs(segmentation.get("counts"), height=height, width=width)
    if not isinstance(segmentation, Sequence) or isinstance(segmentation, str):
        kind = type(segmentation).__name__
        raise InputError(f"expected a mask as polygons or run lengths, got {kind}")
    mask = np.zeros((height, width), dtype=np.bool_)
    for polygon in segmentation:
        mask |= from_polygon(polygon, height=height, width=width)
    return mask


def from_polygon(polygon: Sequence[float], *, height: int, width: int) -> NDArray[np.bool_]:
    """The pixels of which a polygon covers more than half, bool (H, W); at exactly half either way.

    Corners are in pixels from the upper left corner of the picture, so that the first pixel's centre is at
    (0.5, 0.5).

    Raises:
        InputError: it has fewer than three corners, or half a corner.
    """
    import cv2

    try:
        corners = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
    except (TypeError, ValueError) as error:
        raise InputError(f"a polygon is a list of x and y in turn: {error}") from error
    if len(corners) < 3 or not np.isfinite(corners).all():
        raise InputError(f"a polygon has at least three finite corners, got {len(corners)}")
    drawn = np.zeros((height * _FINER, width * _FINER), dtype=np.uint8)
    fixed = np.round((corners * _FINER - 0.5) * 2**_SHIFT).clip(-(2**24), 2**24).astype(np.int32)
    cv2.fillPoly(drawn, [fixed], 255, shift=_SHIFT)  # edges included: hence the finer grid
    return np.asarray(cv2.resize(drawn, (width, height), interpolation=cv2.INTER_AREA) > 127)


def from_runs(counts: Any, *, height: int, width: int) -> NDArray[np.bool_]:
    """The mask of run lengths, off and on in turn, down one column after the other; bool (H, W).

    Args:
        counts: The lengths, as a list or in COCO's letters (`read_letters`).
        height, width: Of the mask.

    Raises:
        InputError: they do not add up to the number of pixels.
    """
    lengths = read_letters(counts) if isinstance(counts, str | bytes) else counts
    if not isinstance(lengths, Sequence) or not all(isinstance(n, int) and n >= 0 for n in lengths):
        raise InputError("run lengths are whole numbers of at least 0")
    if sum(lengths) != height * width:
        raise InputError(f"run lengths of {sum(lengths)} pixels do not fit {height} x {width}")
    values = np.arange(len(lengths)) % 2 == 1
    return np.repeat(values, lengths).reshape(width, height).T


def read_letters(text: str | bytes) -> list[int]:
    """Run lengths from COCO's letters: five bits a letter from "0" on, the sixth says that more follow; from
    the fourth length on, each is written as its difference from the last but one.

    Raises:
        InputError: the letters break off.
    """
    letters = text.encode("latin-1") if isinstance(text, str) else text
    lengths: list[int] = []
    value = bits = 0
    for letter in letters:
        code = letter - 48
        value |= (code & 0x1F) << bits
        bits += 5
        if code & 0x20:
            continue
        if code & 0x10:  # the number is negative
            value -= 1 << bits
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value = bits = 0
    if bits:
        raise InputError("run lengths break off in the middle of a number")
    return lengths
