"""Targets of both modalities in the answers of a tiny random model."""

from __future__ import annotations

import torch

from nam.mllm.gill import GILL
from nam.relevance.base import RelevanceMap
from nam.targets import image_target, text_target
from nam.types import Concept, Generation, Modality, Target


def a_word(generation: Generation, *, index: int = -1) -> str:
    """A word of an answer that is spelled with letters."""
    return [word for word in generation.text.split() if word.isalpha()][index]


def relevance(*, seed: int, signed: bool = True) -> RelevanceMap:
    """A relevance of noise, by its seed."""
    values = torch.randn(8, 32, generator=torch.Generator().manual_seed(seed))
    return RelevanceMap(values=values if signed else values.sigmoid(), signed=signed, cost=0.0)


def targets_of(mllm: GILL, generations: list[Generation], modality: Modality) -> list[Target]:
    """One target for each generation."""
    if modality == "text":
        return [text_target(mllm, found, Concept(a_word(found))) for found in generations]
    return [image_target(found, relevance(seed=row)) for row, found in enumerate(generations)]
