"""Whether the words that a neuron writes fit what was seen, drawn and said (paper, semantic relevance)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

from nam.mllm.pictures import Picture


class PictureMeasure(Protocol):
    """Words against pictures: `ClipScore`."""

    @property
    def column(self) -> str:
        """The name of its column, which names its checkpoint."""

    def __call__(self, texts: Sequence[str], pictures: Sequence[Picture]) -> Tensor:
        """(B,) float32; one picture alone goes with every text."""


class TextMeasure(Protocol):
    """Words against captions: `BertScore`, `MoverScore`, `TextRating`."""

    @property
    def column(self) -> str:
        """The name of its column, which names its checkpoint."""

    def __call__(self, candidates: Sequence[str], references: Sequence[str]) -> Tensor:
        """(B,) float32, NaN where a text has no words."""


def semantic_relevance(
    words: Sequence[str],
    *,
    pictures: Mapping[str, Picture],
    captions: Mapping[str, str],
    picture_measures: Sequence[PictureMeasure] = (),
    text_measures: Sequence[TextMeasure] = (),
) -> dict[str, Tensor]:
    """Agreement of each neuron's words with the pictures and captions of one sample.

    Args:
        words: A text per neuron: its words, joined by ", ", as in neurons.parquet; k of them.
        pictures: The sample's pictures by role; the paper's are "in" and "out".
        captions: Its captions by role: "in", the dataset's, and "out", one of the drawn picture.
        picture_measures: What compares words and pictures.
        text_measures: What compares words and captions.

    Returns:
        "column|role" -> (k,) float32.
    """
    found: dict[str, Tensor] = {}
    for role, picture in pictures.items():
        found |= {f"{one.column}|{role}": one(words, [picture]) for one in picture_measures}
    for role, caption in captions.items():
        found |= {f"{one.column}|{role}": one(words, [caption] * len(words)) for one in text_measures}
    return found
