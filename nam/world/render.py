"""Scene -> picture and masks, with OpenCV, anti-aliased by supersampling."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from nam.world.icons import FIXED, ICONS, Shape
from nam.world.scene import Scene, Thing

Image = NDArray[np.uint8]
Colour = tuple[int, int, int]

RGB: dict[str, Colour] = {
    "red": (220, 40, 44), "orange": (240, 130, 30), "yellow": (250, 214, 50), "green": (48, 160, 66),
    "blue": (44, 96, 210), "purple": (136, 60, 160), "pink": (246, 146, 186), "white": (246, 246, 248),
}  # fmt: skip

_SUPER = 2  # supersampling; at least this many samples a pixel side
_SHIFT = 4  # OpenCV fixed-point bits: polygon corners on a 1/16 grid of the supersampled picture


@dataclass(frozen=True)
class Rendered:
    """image: uint8 (size, size, 3) RGB. masks: noun -> bool (size, size), the thing's visible pixels."""

    image: Image
    masks: dict[str, NDArray[np.bool_]]


def render(scene: Scene, size: int = 64, rng: np.random.Generator | None = None) -> Rendered:
    """Draw a scene at size x size pixels.

    rng draws what the scene leaves open: horizon, clouds, waves, tufts, small shade differences. Without
    it they follow from the scene itself, so the same scene gives the same picture.
    Raises ValueError for a size below 8.
    """
    if size < 8:
        raise ValueError(f"size must be at least 8 pixels, got {size}")
    if rng is None:
        rng = np.random.default_rng(zlib.crc32(repr(scene).encode()))
    side = size * _SUPER
    canvas = _background(scene.place, side, rng)
    masks: list[Image] = []
    for thing in scene.things:
        mask = np.zeros((side, side), dtype=np.uint8)
        _draw_thing(canvas, mask, thing, rng)
        for earlier in masks:
            earlier[mask > 0] = 0
        masks.append(mask)
    small = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
    visible = {
        thing.noun: cv2.resize(mask, (size, size), interpolation=cv2.INTER_AREA) > 127
        for thing, mask in zip(scene.things, masks, strict=True)
    }
    return Rendered(image=np.asarray(small, dtype=np.uint8), masks=visible)


def _draw_thing(canvas: Image, mask: Image, thing: Thing, rng: np.random.Generator) -> None:
    side = canvas.shape[0]
    palette = _palette(thing.colour, rng)
    transform = _transform(thing, side)
    width = max(2, round(side * (0.014 + 0.016 * (thing.box[2] - thing.box[0]))))
    for shape in ICONS[thing.noun]:
        points = _fixed(shape.points @ transform[:, :2].T + transform[:, 2])
        _draw_shape(canvas, points, shape, palette[shape.role], width)
        _draw_shape(mask, points, shape, (255, 255, 255), width)


def _draw_shape(canvas: Image, points: NDArray[np.int32], shape: Shape, colour: Colour, width: int) -> None:
    ink = (255, 255, 255) if canvas.ndim == 2 else FIXED["ink"]
    if shape.open:
        thin = max(1, width * 2 // 3)
        cv2.polylines(canvas, [points], False, ink, thin, cv2.LINE_AA, _SHIFT)
        return
    cv2.fillPoly(canvas, [points], colour, cv2.LINE_AA, _SHIFT)
    if shape.line:
        cv2.polylines(canvas, [points], True, ink, width, cv2.LINE_AA, _SHIFT)


def _palette(colour: str, rng: np.random.Generator) -> dict[str, Colour]:
    base = np.array(RGB[colour], dtype=np.float64) * rng.uniform(0.94, 1.04)
    white = np.array([255.0, 255.0, 255.0])
    shades = {"main": base, "dark": base * 0.72, "light": base * 0.45 + white * 0.55}
    return {**FIXED, **{role: _clip(shade) for role, shade in shades.items()}}


def _clip(colour: NDArray[np.float64]) -> Colour:
    r, g, b = np.clip(colour, 0, 255).astype(int).tolist()
    return r, g, b


def _transform(thing: Thing, side: int) -> NDArray[np.float64]:
    """The (2, 3) affine map from the icon's unit square to supersampled pixels."""
    x0, y0, x1, y1 = (side * v for v in thing.box)
    angle = np.radians(thing.tilt)
    rotate = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shear = np.array([[1.0, thing.shear], [0.0, 1.0]])
    stretch = np.diag([(x1 - x0) * (-1.0 if thing.mirrored else 1.0), y1 - y0])
    linear = rotate @ shear @ stretch
    centre = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
    return np.concatenate([linear, (centre - linear @ np.array([0.5, 0.5]))[:, None]], axis=1)


def _fixed(points: NDArray[np.float64]) -> NDArray[np.int32]:
    return np.round(points * (1 << _SHIFT)).astype(np.int32)


# place -> (sky, ground or None where the sky fills the picture)
_GROUNDS: dict[str, tuple[Colour, Colour | None]] = {
    "grass": ((176, 222, 246), (110, 190, 84)),
    "sea": ((196, 226, 244), (46, 124, 186)),
    "sand": ((186, 220, 240), (232, 202, 138)),
    "snow": ((168, 178, 198), (238, 242, 250)),
    "sky": ((130, 192, 250), None),
    "night": ((34, 36, 88), (26, 58, 56)),
}


def _background(place: str, side: int, rng: np.random.Generator) -> Image:
    sky, ground = _GROUNDS[place]
    canvas = np.empty((side, side, 3), dtype=np.uint8)
    canvas[:] = _clip(np.array(sky) * rng.uniform(0.96, 1.04))
    horizon = (
        round(side * rng.uniform(0.60, 0.70)) if place != "night" else round(side * rng.uniform(0.78, 0.84))
    )
    if ground is not None:
        canvas[horizon:] = _clip(np.array(ground) * rng.uniform(0.96, 1.04))
    _DETAILS[place](canvas, horizon, rng)
    return canvas


def _dots(canvas: Image, xy: NDArray[np.float64], radius: int, colour: Colour) -> None:
    for x, y in np.round(xy).astype(int).tolist():
        cv2.circle(canvas, (x, y), radius, colour, -1, cv2.LINE_AA)


def _scatter(rng: np.random.Generator, n: int, side: int, top: int, bottom: int) -> NDArray[np.float64]:
    return np.stack([rng.uniform(0, side, n), rng.uniform(top, max(top + 1, bottom), n)], axis=1)


def _tufts(canvas: Image, horizon: int, rng: np.random.Generator) -> None:
    side = canvas.shape[0]
    for x, y in np.round(_scatter(rng, 9, side, horizon + side // 24, side)).astype(int).tolist():
        cv2.line(canvas, (x, y), (x, y - side // 26), (64, 150, 58), max(1, side // 64), cv2.LINE_AA)


def _waves(canvas: Image, horizon: int, rng: np.random.Generator) -> None:
    side = canvas.shape[0]
    xs = np.linspace(0, side, 33)
    phase = rng.uniform(0, 2 * np.pi)
    for row, y in enumerate(np.arange(horizon + side * 0.06, side, side * 0.09)):
        wave = y + side * 0.014 * np.sin(xs / side * 2 * np.pi * 5 + phase + row * 2.1)
        points = _fixed(np.stack([xs, wave], axis=1))
        cv2.polylines(canvas, [points], False, (134, 196, 226), max(1, side // 64), cv2.LINE_AA, _SHIFT)


def _grains(canvas: Image, horizon: int, rng: np.random.Generator) -> None:
    side = canvas.shape[0]
    _dots(canvas, _scatter(rng, 12, side, horizon + 2, side), max(1, side // 90), (196, 156, 96))


def _flakes(canvas: Image, horizon: int, rng: np.random.Generator) -> None:
    side = canvas.shape[0]
    _dots(canvas, _scatter(rng, 14, side, 0, horizon), max(1, side // 64), (246, 248, 252))


def _clouds(canvas: Image, horizon: int, rng: np.random.Generator) -> None:
    side = canvas.shape[0]
    for x, y in zip(rng.uniform(0, 1, 3), (0.10, 0.52, 0.92), strict=True):
        for dx, dy, r in ((-0.09, 0.01, 0.05), (0.0, -0.015, 0.07), (0.09, 0.01, 0.055)):
            centre = (round(side * (x + dx)), round(side * (y + dy)))
            axes = (round(side * r * 1.25), round(side * r * 0.8))
            cv2.ellipse(canvas, centre, axes, 0, 0, 360, (240, 246, 252), -1, cv2.LINE_AA)


def _stars(canvas: Image, horizon: int, rng: np.random.Generator) -> None:
    side = canvas.shape[0]
    _dots(canvas, _scatter(rng, 14, side, 0, horizon), max(1, side // 90), (236, 232, 190))


_DETAILS = {
    "grass": _tufts, "sea": _waves, "sand": _grains, "snow": _flakes, "sky": _clouds, "night": _stars,
}  # fmt: skip
