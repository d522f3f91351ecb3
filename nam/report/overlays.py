"""Pictures for a reader: the drawn picture with the concept's region marked, and pictures as data URIs."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

#: Longest side of a picture in a report, in pixels; smaller pictures are enlarged.
SIDE = 288

#: Colour of a marked region, RGB.
TINT = (255, 64, 129)


def overlay(picture: Image.Image, mask: NDArray[np.bool_], *, side: int = SIDE) -> Image.Image:
    """The picture with the region tinted and outlined, `side` pixels at its longest side.

    Args:
        picture: RGB.
        mask: bool (H, W), any size: it is brought to the picture's.
        side: Longest side of the result.
    """
    base = np.asarray(enlarge(picture, side=side))
    height, width = base.shape[:2]
    grey = cv2.resize(
        np.where(mask, 255, 0).astype(np.uint8), (width, height), interpolation=cv2.INTER_LINEAR
    )
    region = (grey > 127).astype(np.uint8)
    tinted = cv2.addWeighted(base, 0.7, np.full_like(base, TINT), 0.3, 0)
    marked = np.where(region[..., None] > 0, tinted, base)
    contours, _ = cv2.findContours(region, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(marked, contours, -1, (255, 255, 255), 4, cv2.LINE_AA)
    cv2.drawContours(marked, contours, -1, TINT, 2, cv2.LINE_AA)
    return Image.fromarray(marked)


def enlarge(picture: Image.Image, *, side: int = SIDE) -> Image.Image:
    """The picture as RGB with `side` pixels at its longest side."""
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.convert("RGB").resize(
        size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
    )


def data_uri(picture: Image.Image) -> str:
    """The picture inside a URI: JPEG, or PNG where that is smaller."""
    found = []
    for kind, options in (("jpeg", {"quality": 90}), ("png", {"optimize": True})):
        buffer = BytesIO()
        picture.save(buffer, format=kind, **options)
        found.append((len(buffer.getvalue()), kind, buffer.getvalue()))
    _, kind, content = min(found)
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def marked_text(text: str, words: Sequence[str]) -> str:
    """The text as HTML, every one of the words in a <mark>; everything is escaped."""
    forms = sorted({word.strip() for word in words if word.strip()}, key=len, reverse=True)
    if not forms:
        return html.escape(text)
    pattern = re.compile(rf"(?<!\w)({'|'.join(map(re.escape, forms))})(?!\w)", re.IGNORECASE)
    parts: list[Any] = pattern.split(text)
    return "".join(
        f"<mark>{html.escape(part)}</mark>" if number % 2 else html.escape(part)
        for number, part in enumerate(parts)
    )
