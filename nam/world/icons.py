"""The icons: every thing as a few polygons in the unit square, x to the right and y down, facing right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]

# Roles of a colour: the thing's own (main, and its dark and light shade) or one of these, the same for all.
FIXED = {
    "ink": (28, 26, 36),
    "wood": (122, 74, 40),
    "leaf": (38, 140, 60),
    "glass": (196, 232, 250),
    "lamp": (255, 226, 110),
    "white": (250, 250, 250),
    "grey": (150, 152, 160),
    "beak": (245, 160, 40),
    "tongue": (232, 108, 120),
}


@dataclass(frozen=True)
class Shape:
    """A polygon (N, 2) filled with a role's colour; `line`: outlined in ink; `open`: a stroke, not a fill."""

    points: Points
    role: str
    line: bool = True
    open: bool = False


def _poly(role: str, *xy: tuple[float, float], line: bool = True) -> Shape:
    return Shape(np.array(xy, dtype=np.float64), role, line)


def _stroke(*xy: tuple[float, float]) -> Shape:
    return Shape(np.array(xy, dtype=np.float64), "ink", line=False, open=True)


def _arc(cx: float, cy: float, rx: float, ry: float, start: float, stop: float, n: int) -> Points:
    angle = np.radians(np.linspace(start, stop, n))
    return np.stack([cx + rx * np.cos(angle), cy + ry * np.sin(angle)], axis=1)


def _ellipse(
    role: str, cx: float, cy: float, rx: float, ry: float | None = None, *, line: bool = True
) -> Shape:
    return Shape(_arc(cx, cy, rx, rx if ry is None else ry, 0, 345, 24), role, line)


def _spikes(cx: float, cy: float, outer: float, inner: float, n: int) -> Points:
    angle = np.radians(np.arange(2 * n) * 180 / n - 90)
    radius = np.where(np.arange(2 * n) % 2 == 0, outer, inner)
    return np.stack([cx + radius * np.cos(angle), cy + radius * np.sin(angle)], axis=1)


def _sun() -> Sequence[Shape]:
    return [Shape(_spikes(0.5, 0.5, 0.5, 0.32, 11), "dark"), _ellipse("main", 0.5, 0.5, 0.29)]


def _moon() -> Sequence[Shape]:
    outer = _arc(0.46, 0.5, 0.46, 0.48, 48, 312, 30)
    inner = _arc(0.68, 0.5, 0.40, 0.40, 294, 66, 24)
    return [Shape(np.concatenate([outer, inner]), "main")]


def _star() -> Sequence[Shape]:
    return [Shape(_spikes(0.5, 0.53, 0.53, 0.22, 5), "main")]


def _tree() -> Sequence[Shape]:
    return [
        _poly("wood", (0.41, 0.78), (0.59, 0.78), (0.59, 1.0), (0.41, 1.0)),
        _poly("main", (0.5, 0.36), (0.90, 0.82), (0.10, 0.82)),
        _poly("main", (0.5, 0.18), (0.80, 0.56), (0.20, 0.56)),
        _poly("main", (0.5, 0.0), (0.70, 0.32), (0.30, 0.32)),
    ]


def _house() -> Sequence[Shape]:
    return [
        _poly("main", (0.12, 0.42), (0.88, 0.42), (0.88, 1.0), (0.12, 1.0)),
        _poly("dark", (0.5, 0.0), (1.0, 0.46), (0.0, 0.46)),
        _poly("wood", (0.41, 0.66), (0.59, 0.66), (0.59, 1.0), (0.41, 1.0)),
        _poly("lamp", (0.18, 0.56), (0.34, 0.56), (0.34, 0.74), (0.18, 0.74)),
        _poly("lamp", (0.66, 0.56), (0.82, 0.56), (0.82, 0.74), (0.66, 0.74)),
    ]


def _car() -> Sequence[Shape]:
    return [
        _poly("main", (0.20, 0.50), (0.32, 0.22), (0.68, 0.22), (0.82, 0.50)),
        _poly("glass", (0.28, 0.48), (0.36, 0.29), (0.48, 0.29), (0.48, 0.48)),
        _poly("glass", (0.54, 0.48), (0.54, 0.29), (0.65, 0.29), (0.73, 0.48)),
        _poly("main", (0.0, 0.54), (0.05, 0.47), (0.92, 0.47), (1.0, 0.56), (1.0, 0.74), (0.0, 0.74)),
        _poly("lamp", (0.91, 0.53), (1.0, 0.55), (1.0, 0.62), (0.91, 0.62), line=False),
        _ellipse("ink", 0.24, 0.74, 0.14),
        _ellipse("grey", 0.24, 0.74, 0.07, line=False),
        _ellipse("ink", 0.77, 0.74, 0.14),
        _ellipse("grey", 0.77, 0.74, 0.07, line=False),
    ]


def _boat() -> Sequence[Shape]:
    return [
        _poly("wood", (0.47, 0.0), (0.53, 0.0), (0.53, 0.68), (0.47, 0.68)),
        _poly("light", (0.43, 0.08), (0.43, 0.58), (0.10, 0.58)),
        _poly("light", (0.57, 0.04), (0.57, 0.58), (0.92, 0.58)),
        _poly("main", (0.0, 0.66), (1.0, 0.66), (0.82, 0.94), (0.16, 0.94)),
    ]


def _fish() -> Sequence[Shape]:
    return [
        _poly("dark", (0.28, 0.5), (0.0, 0.22), (0.05, 0.5), (0.0, 0.78)),
        _poly("dark", (0.42, 0.30), (0.56, 0.08), (0.72, 0.30)),
        _ellipse("main", 0.60, 0.5, 0.40, 0.27),
        _poly("dark", (0.62, 0.50), (0.44, 0.42), (0.44, 0.62), line=False),
        _ellipse("white", 0.82, 0.43, 0.075, line=False),
        _ellipse("ink", 0.84, 0.43, 0.045, line=False),
    ]


def _bird() -> Sequence[Shape]:
    return [
        _poly("beak", (0.40, 0.82), (0.45, 0.82), (0.45, 1.0), (0.40, 1.0), line=False),
        _poly("beak", (0.54, 0.82), (0.59, 0.82), (0.59, 1.0), (0.54, 1.0), line=False),
        _poly("dark", (0.22, 0.60), (0.0, 0.42), (0.04, 0.70), (0.24, 0.74)),
        _ellipse("main", 0.46, 0.64, 0.31, 0.23),
        _poly("beak", (0.88, 0.20), (1.0, 0.30), (0.88, 0.36)),
        _ellipse("main", 0.74, 0.27, 0.19),
        _poly("dark", (0.30, 0.54), (0.60, 0.58), (0.52, 0.76), (0.30, 0.74), line=False),
        _ellipse("ink", 0.79, 0.23, 0.045, line=False),
    ]


def _flower() -> Sequence[Shape]:
    petals = [
        _ellipse("main", 0.5 + 0.20 * np.cos(a), 0.30 + 0.20 * np.sin(a), 0.145)
        for a in np.radians(np.arange(5) * 72 - 90)
    ]
    return [
        _poly("leaf", (0.46, 0.46), (0.54, 0.46), (0.54, 1.0), (0.46, 1.0)),
        _poly("leaf", (0.50, 0.92), (0.22, 0.66), (0.26, 0.88)),
        _poly("leaf", (0.50, 0.92), (0.78, 0.66), (0.74, 0.88)),
        *petals,
        _ellipse("lamp", 0.5, 0.30, 0.11),
    ]


def _cat() -> Sequence[Shape]:
    return [
        _poly("main", (0.12, 0.50), (0.10, 0.02), (0.46, 0.24)),
        _poly("main", (0.88, 0.50), (0.90, 0.02), (0.54, 0.24)),
        _ellipse("main", 0.5, 0.58, 0.42, 0.38),
        _ellipse("ink", 0.34, 0.50, 0.055, 0.08, line=False),
        _ellipse("ink", 0.66, 0.50, 0.055, 0.08, line=False),
        _poly("tongue", (0.44, 0.64), (0.56, 0.64), (0.5, 0.72), line=False),
        _stroke((0.0, 0.60), (0.28, 0.68)),
        _stroke((0.02, 0.82), (0.28, 0.75)),
        _stroke((1.0, 0.60), (0.72, 0.68)),
        _stroke((0.98, 0.82), (0.72, 0.75)),
    ]


def _dog() -> Sequence[Shape]:
    return [
        _ellipse("main", 0.5, 0.44, 0.32, 0.40),
        _poly("dark", (0.26, 0.08), (0.06, 0.14), (0.0, 0.60), (0.16, 0.68), (0.26, 0.36)),
        _poly("dark", (0.74, 0.08), (0.94, 0.14), (1.0, 0.60), (0.84, 0.68), (0.74, 0.36)),
        _poly("tongue", (0.44, 0.80), (0.56, 0.80), (0.56, 0.98), (0.50, 1.0), (0.44, 0.98)),
        _ellipse("light", 0.5, 0.70, 0.20, 0.17),
        _ellipse("ink", 0.5, 0.60, 0.10, 0.07, line=False),
        _ellipse("ink", 0.38, 0.36, 0.055, line=False),
        _ellipse("ink", 0.62, 0.36, 0.055, line=False),
    ]


def _horse() -> Sequence[Shape]:
    legs = [(0.16, "dark"), (0.30, "main"), (0.54, "dark"), (0.66, "main")]
    return [
        *[_poly(r, (x, 0.64), (x + 0.09, 0.64), (x + 0.08, 1.0), (x + 0.01, 1.0)) for x, r in legs],
        _poly("dark", (0.16, 0.42), (0.02, 0.48), (0.0, 0.80), (0.07, 0.82), (0.14, 0.60)),
        _poly(
            "main",
            (0.14, 0.42), (0.54, 0.42), (0.68, 0.16), (0.80, 0.08), (1.0, 0.28), (0.96, 0.38),
            (0.84, 0.34), (0.77, 0.54), (0.76, 0.68), (0.14, 0.68),
        ),
        _poly("dark", (0.50, 0.44), (0.62, 0.12), (0.74, 0.10), (0.62, 0.44)),
        _poly("main", (0.72, 0.12), (0.74, 0.0), (0.81, 0.10)),
        _ellipse("ink", 0.83, 0.20, 0.035, line=False),
    ]  # fmt: skip


_BUILDERS: dict[str, Callable[[], Sequence[Shape]]] = {
    "sun": _sun, "moon": _moon, "star": _star, "tree": _tree, "house": _house, "car": _car, "boat": _boat,
    "fish": _fish, "bird": _bird, "flower": _flower, "cat": _cat, "dog": _dog, "horse": _horse,
}  # fmt: skip

ICONS: dict[str, tuple[Shape, ...]] = {noun: tuple(build()) for noun, build in _BUILDERS.items()}
"""noun -> its shapes, from back to front."""
