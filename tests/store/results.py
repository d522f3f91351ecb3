"""Made-up results of a run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from nam.store import SampleResult, run_manifest
from nam.types import Concept, Neuron, Scores

LAYERS, UNITS = 3, 40
CONCEPTS = (Concept("horse", ("horses",)), Concept("car"), Concept("fish"))
MANIFEST = run_manifest(model="made up", seed=0, layers=LAYERS, units=UNITS)


def words(neurons: Sequence[Neuron]) -> list[tuple[str, ...]]:
    """Words of made-up neurons."""
    return [("horse", f"unit{neuron.unit}") for neuron in neurons]


def result(index: int, *, layers: int = LAYERS, units: int = UNITS, empty_mask: bool = False) -> SampleResult:
    """Result number `index`, the same every time."""
    rng = np.random.default_rng(index)
    concept = CONCEPTS[index % len(CONCEPTS)]
    size = (layers, units)
    modalities = ("text",) if empty_mask else ("text", "image")
    mask = np.zeros((16, 16), bool)
    mask[4:12, 4:10] = True
    return SampleResult(
        index=index,
        id=f"s{index}",
        concept=concept,
        prompt=f"draw a {concept.name}.",
        text=f"here is a {concept.name} :",
        seed=index,
        picture=Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)),
        mask=None if empty_mask else mask,
        mask_score=None if empty_mask else 0.9,
        relevance=None if empty_mask else tuple(rng.random(8)),
        scores=tuple(
            Scores(
                concept,
                modality,
                "nam",
                torch.from_numpy(-rng.random(size, dtype=np.float32) * 9),
                torch.from_numpy(rng.random(size, dtype=np.float32)),
            )
            for modality in modalities
        ),
        errors=(("image", f"no {concept.name} in the picture"),) if empty_mask else (),
    )
