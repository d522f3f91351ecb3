"""The region of what was drawn that shows a concept: of a picture, a sound or a video."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from nam.errors import InputError, TargetError
from nam.mllm.video import grid_of
from nam.segmenter.base import GivenMasks, Mask, Segmenter
from nam.types import Concept, Generation

#: Beginning and end of a range of time, as shares of the whole from 0 to 1.
TimeRange = tuple[float, float]

#: All of it.
ALWAYS: TimeRange = (0.0, 1.0)


def regions_of(
    generations: Sequence[Generation],
    concepts: Sequence[Concept],
    segmenter: Segmenter,
    *,
    given: Sequence[GivenMasks | None],
    times: Sequence[TimeRange],
) -> list[Mask]:
    """The region of each concept, as a mask of `Generation.image`.

    Of a picture it is the segmenter's mask; of a sound the range of time; of a video the segmenter's mask of
    every frame in the range of time.

    Args:
        generations: With something drawn.
        concepts: One for each.
        segmenter: Sees pictures and frames.
        given: Masks that came with a picture.
        times: One for each; a picture has none, and passes it over.

    Raises:
        InputError: the segmenter does not know a concept, or a range of time is none.
    """
    seen = [_pictures(generation) for generation in generations]
    found = iter(
        segmenter.segment(
            [picture for pictures in seen for picture in pictures],
            [concept for concept, pictures in zip(concepts, seen, strict=True) for _ in pictures],
            given=[masks for masks, pictures in zip(given, seen, strict=True) for _ in pictures],
        )
    )
    rows = zip(generations, seen, times, strict=True)
    return [_region(one, [next(found) for _ in pictures], time) for one, pictures, time in rows]


def time_region(generation: Generation, start: float = 0.0, stop: float = 1.0) -> NDArray[np.bool_]:
    """A range of time of a sound or a video as a mask of its picture: bool (H, W).

    Args:
        generation: With a sound or a video.
        start, stop: Shares of the whole, 0 <= start < stop <= 1; what begins before `stop` and ends behind
            `start` is in it, so that none is empty.

    Raises:
        TargetError: neither was drawn.
        InputError: it is no range.
    """
    if generation.image is None or generation.medium == "image":
        raise TargetError("a range of time needs a sound or a video: none was drawn")
    if not 0 <= start < stop <= 1:
        raise InputError(f"a range of time goes from 0 or more to 1 or less, got {start} to {stop}")
    mask = np.zeros((generation.image.height, generation.image.width), dtype=np.bool_)
    if generation.medium == "audio":
        mask[:, _part(mask.shape[1], start, stop)] = True
        return mask
    count = len(generation.frames)
    width, height = generation.frames[0].size
    frames = np.zeros((count, height, width), dtype=np.bool_)
    frames[_part(count, start, stop)] = True
    return frames_as_sheet(frames)


def frames_as_sheet(frames: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Masks of frames, bool (F, H, W), laid out as the frames of a video are in its picture."""
    count, height, width = frames.shape
    rows, columns = grid_of(count)
    sheet = np.zeros((rows * columns, height, width), dtype=np.bool_)
    sheet[:count] = frames
    grid = sheet.reshape(rows, columns, height, width)
    return grid.transpose(0, 2, 1, 3).reshape(rows * height, columns * width)


def _pictures(generation: Generation) -> Sequence[Image]:
    """What a segmenter looks at; nothing of a sound."""
    if generation.medium == "video":
        return generation.frames
    return [] if generation.medium == "audio" or generation.image is None else [generation.image]


def _region(generation: Generation, masks: Sequence[Mask], time: TimeRange) -> Mask:
    if generation.medium == "image":
        return masks[0]
    when = time_region(generation, *time)
    if generation.medium == "audio":
        return Mask(when, 1.0)
    where = frames_as_sheet(np.stack([mask.pixels for mask in masks])) & when
    return Mask(where, float(np.mean([mask.score for mask in masks])))


def _part(count: int, start: float, stop: float) -> slice:
    return slice(int(start * count), -int(-stop * count // 1))
