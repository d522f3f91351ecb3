"""What a scene is: one or two coloured things in a place, and how scenes are drawn at random.

Coordinates are fractions of the picture, x to the right and y down, so a scene renders at any size.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from functools import cache

import numpy as np

NOUNS = (
    "sun", "moon", "star", "tree", "house", "car", "boat", "fish", "bird", "flower", "cat", "dog", "horse",
)  # fmt: skip
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
PLACES = ("grass", "sea", "sand", "snow", "sky", "night")
SPLITS = ("train", "val", "test")

# One thing fills about 60 % of the picture's side, two things 42 % each.
_SIDE = {1: 0.60, 2: 0.42}
_CENTRES = {1: ((0.5, 0.5),), 2: ((0.26, 0.52), (0.74, 0.52))}


@dataclass(frozen=True)
class Pose:
    """How much things move about, each a half-width of a uniform draw.

    shift: of the centre, as a fraction of the picture (0.06 is about 4 px of 64).
    scale: of log(size). aspect: of log(width / height). mirror: whether things may face left.
    tilt: rotation in degrees, shear: horizontal shear; both applied by the renderer.
    anywhere: one-thing scenes place the centre anywhere the thing still fits.
    """

    shift: float
    scale: float
    aspect: float
    tilt: float
    shear: float
    mirror: bool = True
    anywhere: bool = False


POSES = {
    "calm": Pose(shift=0.02, scale=0.05, aspect=0.03, tilt=2.0, shear=0.02),
    "shipped": Pose(shift=0.055, scale=0.14, aspect=0.05, tilt=4.0, shear=0.04),
    "free": Pose(shift=0.12, scale=0.30, aspect=0.10, tilt=10.0, shear=0.08, anywhere=True),
}


@dataclass(frozen=True)
class Thing:
    """A coloured thing. `box` is (x0, y0, x1, y1) in fractions of the picture; `tilt` is in degrees,
    `shear` the horizontal shear; `mirrored` things face left."""

    noun: str
    colour: str
    box: tuple[float, float, float, float]
    mirrored: bool = False
    tilt: float = 0.0
    shear: float = 0.0

    def __post_init__(self) -> None:
        _check("noun", self.noun, NOUNS)
        _check("colour", self.colour, COLOURS)
        x0, y0, x1, y1 = self.box
        if not (x0 < x1 and y0 < y1):
            raise ValueError(f"box must be (x0, y0, x1, y1) with x0 < x1 and y0 < y1, got {self.box}")


@dataclass(frozen=True)
class Scene:
    """One or two things of different nouns, named from left to right, in a place."""

    things: tuple[Thing, ...]
    place: str

    def __post_init__(self) -> None:
        _check("place", self.place, PLACES)
        if len(self.things) not in (1, 2):
            raise ValueError(f"a scene has one or two things, got {len(self.things)}")
        nouns = [thing.noun for thing in self.things]
        if len(set(nouns)) != len(nouns):
            raise ValueError(f"the things of a scene have different nouns, got {nouns}")


def _check(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"unknown {name} {value!r}: expected one of {', '.join(allowed)}")


@cache
def split_of(noun: str, colour: str, place: str) -> str:
    """The split a combination belongs to: 80 % train, 5 % val, 15 % test, by a stable hash."""
    bucket = zlib.crc32(f"{noun} {colour} {place}".encode()) % 100
    return "train" if bucket < 80 else "val" if bucket < 85 else "test"


@cache
def combinations(split: str) -> tuple[tuple[str, str, str], ...]:
    """All (noun, colour, place) of a split, in a stable order."""
    _check("split", split, SPLITS)
    return tuple(
        (noun, colour, place)
        for noun in NOUNS
        for colour in COLOURS
        for place in PLACES
        if split_of(noun, colour, place) == split
    )


@cache
def _colours_of(split: str) -> dict[str, dict[str, tuple[str, ...]]]:
    """place -> noun -> the colours that the split allows there (nouns without any are left out)."""
    table: dict[str, dict[str, tuple[str, ...]]] = {place: {} for place in PLACES}
    for noun, colour, place in combinations(split):
        table[place][noun] = (*table[place].get(noun, ()), colour)
    return table


def sample_scene(
    rng: np.random.Generator, *, pose: str = "shipped", split: str = "train", two_things: float = 0.35
) -> Scene:
    """Draw a scene: place, nouns and colours uniform within the split, boxes by the pose.

    rng: a numpy Generator; the same state gives the same scene. pose: a name in POSES.
    two_things: probability of a second thing (each thing's combination lies in the split).
    """
    _check("pose", pose, tuple(POSES))
    _check("split", split, SPLITS)
    table = _colours_of(split)
    place = PLACES[rng.integers(len(PLACES))]
    nouns = tuple(table[place])
    count = 2 if rng.random() < two_things and len(nouns) > 1 else 1
    chosen = rng.permutation(len(nouns))[:count]
    things = []
    for slot, index in enumerate(chosen):
        noun = nouns[index]
        colours = table[place][noun]
        colour = colours[rng.integers(len(colours))]
        things.append(place_thing(rng, noun=noun, colour=colour, slot=slot, count=count, pose=pose))
    return Scene(things=tuple(things), place=place)


def place_thing(
    rng: np.random.Generator, *, noun: str, colour: str, slot: int = 0, count: int = 1, pose: str = "shipped"
) -> Thing:
    """A thing with a random box: `slot` counts from the left among `count` things."""
    p = POSES[pose]
    side = _SIDE[count] * math.exp(rng.uniform(-p.scale, p.scale))
    stretch = math.exp(rng.uniform(-p.aspect, p.aspect) / 2)
    width, height = side * stretch, side / stretch
    cx, cy = _CENTRES[count][slot]
    if p.anywhere and count == 1:
        cx, cy = rng.uniform(width / 2, 1 - width / 2), rng.uniform(height / 2, 1 - height / 2)
    else:
        limit = p.shift if count == 1 else min(p.shift, 0.06)  # two things stay on their own side
        cx, cy = cx + rng.uniform(-limit, limit), cy + rng.uniform(-p.shift, p.shift)
    box = (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)
    return Thing(
        noun=noun,
        colour=colour,
        box=box,
        mirrored=bool(p.mirror and rng.random() < 0.5),
        tilt=float(rng.uniform(-p.tilt, p.tilt)),
        shear=float(rng.uniform(-p.shear, p.shear)),
    )
