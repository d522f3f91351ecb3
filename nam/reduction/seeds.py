"""Random numbers that belong to a target, wherever and beside whatever it is scored."""

from __future__ import annotations

import zlib

import numpy as np

from nam.reduction.base import Context


def generator_of(context: Context, *seeds: int) -> np.random.Generator:
    """Random numbers that follow from what was asked, what was answered, the target's positions and `seeds`.

    Neither the batch nor the process shows. Two regions of one picture have the same: a float that depends on
    the rounding of a gradient cannot be a seed.
    """
    generation, target = context.generation, context.target
    pixels = generation.input_pixels
    key = [
        len(seeds),
        *seeds,
        generation.seed,
        0 if pixels is None else zlib.crc32(pixels.contiguous().numpy().tobytes()),
        int(target.modality == "image"),
        len(target.positions),
        *target.positions,
        *(token + 1 for token in generation.token_ids),  # a picture's place has the id -1
    ]
    return np.random.default_rng(key)
