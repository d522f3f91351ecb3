"""Pictures in and out: whatever the user hands in becomes checked RGB; pixels become a PIL picture."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from nam.errors import InputError

#: What a picture may be given as: a path, a PIL picture, or a uint8 array (H, W, 3) or (H, W).
Picture = str | os.PathLike[str] | Image.Image | np.ndarray[Any, Any]

#: Pictures above this number of pixels are refused before they are decoded.
MAX_PIXELS = 64_000_000

#: File formats that are read; others (EPS runs a program) are refused.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")


def read_picture(source: Picture) -> Image.Image:
    """The picture as 8-bit RGB, upright; transparent parts become white.

    Raises:
        InputError: it cannot be read, is a URL, is empty, too large, or an array of another type or shape.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _to_rgb(source, name="the picture")
    if not isinstance(source, str | os.PathLike):
        raise InputError(f"expected a picture as path, PIL image or uint8 array, got {type(source).__name__}")
    path = local_path(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower
            with Image.open(path, formats=FORMATS) as opened:
                return _to_rgb(opened, name=str(path))
    except (InputError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise InputError(f"{path} is too large: at most {MAX_PIXELS:,} pixels are read") from error
    except Exception as error:  # a decoder may raise anything where a file is damaged
        reason = getattr(error, "strerror", None) or error  # the whole of an OSError names the path again
        raise InputError(f"cannot read the picture {path}: {reason}") from error


def local_path(source: str | os.PathLike[str]) -> Path:
    """The path of a file on this machine.

    Raises:
        InputError: it is empty, or a URL.
    """
    text = os.fspath(source)
    if not text.strip():
        raise InputError("no picture: its path is empty")
    if "://" in text or text.startswith("data:"):
        raise InputError(f"URLs are not read: download {text[:80]} first and give the path of the file")
    return Path(text)


def _from_array(array: np.ndarray[Any, Any]) -> Image.Image:
    grey_or_rgb = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)
    if array.dtype != np.uint8 or not grey_or_rgb:
        raise InputError(
            f"expected a uint8 picture of shape (H, W, 3) or (H, W), got {array.dtype} of shape {array.shape}"
        )
    if array.size == 0:
        raise InputError(f"expected a picture with pixels, got an empty array of shape {array.shape}")
    return _to_rgb(Image.fromarray(array), name="the picture")


def _to_rgb(picture: Image.Image, *, name: str) -> Image.Image:
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise InputError(f"{name} is too large: {width} x {height} pixels, at most {MAX_PIXELS:,} are read")
    if width * height == 0:
        raise InputError(f"expected a picture with pixels, got {width} x {height} ({name})")
    try:
        picture.load()
        picture = ImageOps.exif_transpose(picture)
        if picture.mode.startswith(("I", "F")):  # 16 or 32 bits a pixel: convert("RGB") would clip to white
            return _scale_deep(picture)
        if "A" in picture.getbands() or "transparency" in picture.info:
            opaque = Image.new("RGBA", picture.size, "white")
            return Image.alpha_composite(opaque, picture.convert("RGBA")).convert("RGB")
        return picture.convert("RGB")
    except MemoryError:
        raise
    except Exception as error:  # decoders raise anything from SyntaxError to struct.error on damaged files
        raise InputError(f"cannot read {name}: {type(error).__name__}: {error}") from error


def _scale_deep(picture: Image.Image) -> Image.Image:
    values = np.nan_to_num(np.asarray(picture, dtype=np.float64))
    top = values.max()
    ceiling = 1.0 if top <= 1 else 255.0 if top <= 255 else 65535.0 if top <= 65535 else top
    grey = (values.clip(0, ceiling) * (255.0 / ceiling)).round().astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def to_pixels(
    picture: Image.Image, *, size: int, mean: Sequence[float], std: Sequence[float], fit: str = "squash"
) -> Tensor:
    """What a vision tower reads: the RGB picture at `size` x `size`, normalised; float32 (3, size, size).

    With fit "squash", shrinking averages areas and growing interpolates; with "crop", the shorter side
    becomes `size` (bicubic) and the middle of the longer one is kept, as CLIP's own processor does.
    """
    if fit == "crop":
        picture = _cropped(picture, size)
    elif picture.size != (size, size):
        shrinks = picture.width >= size and picture.height >= size
        resample = Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR
        picture = picture.resize((size, size), resample)
    pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).to(torch.float32) / 255
    return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def _cropped(picture: Image.Image, size: int) -> Image.Image:
    short = min(picture.size)
    wide, high = (size * side // short for side in picture.size)
    left, top = (wide - size) // 2, (high - size) // 2
    if wide * high <= MAX_PIXELS:
        resized = picture.resize((wide, high), Image.Resampling.BICUBIC)
        return resized.crop((left, top, left + size, top + size))
    # Of a long strip what is cut off would be gigabytes: it is not made. Pixels may differ by rounding.
    x, y = picture.width / wide, picture.height / high
    right, bottom = min((left + size) * x, picture.width), min((top + size) * y, picture.height)
    return picture.resize((size, size), Image.Resampling.BICUBIC, box=(left * x, top * y, right, bottom))


def to_picture(pixels: Tensor) -> Image.Image:
    """A PIL picture from pixels (3, H, W), where 0 is black and 1 is white; values outside are clipped."""
    grey_levels = (pixels.detach().float().clamp(0, 1) * 255).round().to("cpu", torch.uint8)
    return Image.fromarray(grey_levels.permute(1, 2, 0).contiguous().numpy())
