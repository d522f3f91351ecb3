"""scene_similarity: what stands in for BLEURT on the scenes, which no published checkpoint knows."""

from __future__ import annotations

from pathlib import Path

from nam.evaluate.bleurt import TextRating, load_rating

#: Where the model is, inside a model's folder.
SIMILARITY = "similarity"


def load_scene_similarity(checkpoint: str | Path = "tiny_gill", *, device: str = "cpu") -> TextRating:
    """How much two texts about scenes say the same, about 0 to 1: a learned `nam.data.similarity.overlap`.

    Args:
        checkpoint: A folder that holds such a model, or a GILL's folder with it in `similarity/`.
        device: Where the model goes.

    Raises:
        ModelError: there is no such model, it is damaged, or no regression.
        ConfigError: there is no such device.
    """
    return load_rating("scene_similarity", checkpoint, part=SIMILARITY, device=device)
