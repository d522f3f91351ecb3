"""Scene facts as class numbers: what classifiers and auxiliary losses are trained on.

The presence table says for every noun whether it is there and in which colour; the slots say it from left
to right. IGNORE marks what a caption leaves out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nam.world.language import Facts
from nam.world.scene import COLOURS, NOUNS, PLACES, Scene

IGNORE = -100
ABSENT = 0  # in the presence table; colour c is class c + 1
NOTHING = len(NOUNS)  # the noun of an empty second slot
SLOTS = (
    ("noun1", len(NOUNS)),
    ("colour1", len(COLOURS)),
    ("noun2", len(NOUNS) + 1),
    ("colour2", len(COLOURS)),
    ("place", len(PLACES)),
)
"""(name, number of classes) of the slot labels, in order."""


def presence(scene: Scene) -> tuple[NDArray[np.int64], int]:
    """((nouns,) class per noun: 0 absent, 1 + colour index; place index)."""
    table = np.full(len(NOUNS), ABSENT, dtype=np.int64)
    for thing in scene.things:
        table[NOUNS.index(thing.noun)] = 1 + COLOURS.index(thing.colour)
    return table, PLACES.index(scene.place)


def slots(facts: Facts) -> NDArray[np.int64]:
    """(5,) labels in the order of SLOTS; what the caption leaves out is IGNORE."""
    labels = np.full(len(SLOTS), IGNORE, dtype=np.int64)
    labels[2] = NOTHING
    for index, (noun, colour) in enumerate(facts.things):
        labels[2 * index] = NOUNS.index(noun)
        if colour is not None:
            labels[2 * index + 1] = COLOURS.index(colour)
    if facts.place is not None:
        labels[4] = PLACES.index(facts.place)
    return labels


def segmentation(masks: dict[str, NDArray[np.bool_]], place: str) -> NDArray[np.int64]:
    """(H, W) class map: 0..12 the things, 13.. the place behind them."""
    first = next(iter(masks.values()))
    classes = np.full(first.shape, len(NOUNS) + PLACES.index(place), dtype=np.int64)
    for noun, mask in masks.items():
        classes[mask] = NOUNS.index(noun)
    return classes
