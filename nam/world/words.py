"""Small helpers on words that every part of the language shares."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")

#: How a place is said: "on the grass", "at night".
PLACE_PHRASES: dict[str, str] = {
    "grass": "on the grass",
    "sea": "by the sea",
    "sand": "on the sand",
    "snow": "in the snow",
    "sky": "in the sky",
    "night": "at night",
}

#: Plural of every thing.
PLURALS: dict[str, str] = {
    "sun": "suns",
    "moon": "moons",
    "star": "stars",
    "tree": "trees",
    "house": "houses",
    "car": "cars",
    "boat": "boats",
    "fish": "fishes",
    "bird": "birds",
    "flower": "flowers",
    "cat": "cats",
    "dog": "dogs",
    "horse": "horses",
}

#: Other names of a thing: (singular, plural, what it is: "a <kind> <noun>").
NICKNAMES: dict[str, tuple[tuple[str, str, str], ...]] = {
    "sun": (),
    "moon": (("crescent", "crescents", "thin"),),
    "star": (),
    "tree": (("sapling", "saplings", "young"), ("oak", "oaks", "big")),
    "house": (("cottage", "cottages", "small"), ("mansion", "mansions", "big")),
    "car": (("taxi", "taxis", "busy"),),
    "boat": (("ship", "ships", "big"), ("dinghy", "dinghies", "small")),
    "fish": (("minnow", "minnows", "small"),),
    "bird": (("chick", "chicks", "young"), ("sparrow", "sparrows", "small")),
    "flower": (("blossom", "blossoms", "young"), ("rose", "roses", "pretty")),
    "cat": (("kitten", "kittens", "young"),),
    "dog": (("puppy", "puppies", "young"), ("hound", "hounds", "big")),
    "horse": (("pony", "ponies", "small"), ("foal", "foals", "young")),
}

#: Light that comes from a thing; a form of its concept without a plural.
GLOWS: dict[str, str] = {"sun": "sunshine", "moon": "moonlight", "star": "starlight"}


def surface_forms(noun: str) -> tuple[str, ...]:
    """Every word that stands for a thing, its singular first: ("cat", "cats", "kitten", "kittens").

    Raises:
        KeyError: the noun is not one of the things.
    """
    if noun not in PLURALS:
        raise KeyError(f"no thing is called {noun!r}; expected one of {', '.join(PLURALS)}")
    nicknames = tuple(form for singular, plural, _ in NICKNAMES[noun] for form in (singular, plural))
    glow = (GLOWS[noun],) if noun in GLOWS else ()
    return (noun, PLURALS[noun], *nicknames, *glow)


def article(word: str) -> str:
    """The indefinite article that goes before a word."""
    return "an" if word[0] in "aeiou" else "a"


def a(words: str) -> str:
    """The words with their indefinite article in front."""
    return f"{article(words)} {words}"


def words_of(texts: Iterable[str]) -> set[str]:
    """The words and punctuation marks of texts and templates; {slots} are left out."""
    found: set[str] = set()
    for text in texts:
        found.update(re.findall(r"[a-z]+|[.,?:]", re.sub(r"\{[a-z_]*\}", " ", text)))
    return found


def pick(rng: np.random.Generator, items: Sequence[T]) -> T:
    """One item, uniformly; much faster than `rng.choice` on short sequences."""
    return items[int(rng.random() * len(items))]
