"""What a run is asked, one item a sample, whatever source it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nam.types import Modality, Sample


@dataclass(frozen=True, eq=False, kw_only=True)
class Item:
    """A sample with its place in the data.

    Attributes:
        index: Place in the data, from 0.
        sample: What is asked; its concept is what the neurons are looked for.
        modalities: Whether the neurons that say the concept are wanted, those that draw it, or both.
        masks: Where each thing is in the picture that is asked about, for rendered ones: noun -> bool (H, W).
        error: Why the sample cannot be asked; "" when it can.
    """

    index: int
    sample: Sample
    modalities: tuple[Modality, ...] = ("text", "image")
    masks: Mapping[str, NDArray[np.bool_]] | None = None
    error: str = ""


class Source(Protocol):
    """Items by their place: item `i` has index `i`, and is the same every time."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Item: ...


#: What a source may be told about a sample's modalities.
MODALITIES: Mapping[str, tuple[Modality, ...]] = {
    "text": ("text",),
    "image": ("image",),
    "both": ("text", "image"),
}


def modalities_of(value: Any) -> tuple[Modality, ...]:
    """The modalities that "text", "image" or "both" stands for; both for nothing.

    Raises:
        ValueError: it is something else.
    """
    word = str(value or "both").strip().lower()
    if word not in MODALITIES:
        raise ValueError(f"modality must be text, image or both, got {value!r}")
    return MODALITIES[word]
