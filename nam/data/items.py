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
        modalities: Whether the neurons that say the concept are wanted, those that draw it, or both; at most
            one of "image", "audio" and "video".
        masks: Where each thing is in the picture that is asked about, for rendered ones: noun -> bool (H, W).
        time: Of a sound or a video, the range of time that is looked at, as shares of the whole.
        error: Why the sample cannot be asked; "" when it can.
    """

    index: int
    sample: Sample
    modalities: tuple[Modality, ...] = ("text", "image")
    masks: Mapping[str, NDArray[np.bool_]] | None = None
    time: tuple[float, float] = (0.0, 1.0)
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
    "audio": ("audio",),
    "video": ("video",),
    "text+audio": ("text", "audio"),
    "text+video": ("text", "video"),
}


def modalities_of(value: Any) -> tuple[Modality, ...]:
    """The modalities that a name in `MODALITIES` stands for, "both" for nothing.

    Raises:
        ValueError: it is something else.
    """
    word = str(value or "both").strip().lower()
    if word not in MODALITIES:
        others = ", ".join(name for name in MODALITIES if name not in ("text", "image", "both"))
        raise ValueError(f"modality must be text, image or both, got {value!r} (or one of {others})")
    return MODALITIES[word]
