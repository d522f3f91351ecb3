"""Tiny random models that draw token by token, and pictures of theirs."""

from __future__ import annotations

from functools import cache

import numpy as np

from nam.mllm.tiny_unified import UNIFIED, read_tiny_unified
from nam.mllm.unified import Unified
from nam.types import Generation

FAMILIES = sorted(UNIFIED)
PROMPTS = ["draw a red horse on the grass", "a cat", "a blue fish by the sea"]
SEEDS = [4, 9, 2]

#: Rows 1 and 2 of four, columns 0 to 2.
REGION = np.zeros((32, 32), dtype=np.bool_)
REGION[8:24, :24] = True


@cache
def tiny(family: str, dtype: str = "float32") -> Unified:
    """A model of a family, made once: no test may leave it changed."""
    return read_tiny_unified(family=family, dtype=dtype)


@cache
def drawn(family: str) -> tuple[Generation, ...]:
    """Its pictures for the prompts."""
    return tuple(tiny(family).generate(PROMPTS, seed=SEEDS, draw=True))
