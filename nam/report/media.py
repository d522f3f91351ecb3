"""Pictures and sounds of a run, for a report, and how it calls those that are no pictures."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nam.errors import NamError
from nam.mllm.pictures import read_picture

if TYPE_CHECKING:
    from PIL.Image import Image

    from nam.store import Run
    from nam.types import Modality

#: Neurons of what is neither said nor a picture: letter, and what they do.
OTHERS: Mapping[Modality, tuple[str, str]] = {
    "audio": ("A", "A-neurons: they sound it"),
    "video": ("V", "V-neurons: they film it"),
}

#: What a reader calls the picture of what was drawn.
CAPTIONS: Mapping[Modality, str] = {"audio": "spectrogram of the sound", "video": "frames of the video"}


def picture_of(run: Run, path: Any) -> Image | None:
    """A picture of the run; None where there is none or it cannot be read any more."""
    if not isinstance(path, str):
        return None
    try:
        return read_picture(run.image(path))
    except (NamError, ValueError):  # ValueError: a path that holds a null byte
        return None


def sound_of(run: Run, path: Any) -> str | None:
    """A sound of the run as a data URI; None where there is none or it cannot be read any more."""
    if not isinstance(path, str):
        return None
    try:
        content = run.image(path).read_bytes()
    except (NamError, ValueError, OSError):
        return None
    return f"data:audio/wav;base64,{base64.b64encode(content).decode()}"
