"""From a word to the concept that it names."""

from __future__ import annotations

from collections.abc import Sequence

from nam.errors import InputError
from nam.types import Concept
from nam.world.scene import NOUNS
from nam.world.words import surface_forms


def concept_of(name: str, forms: Sequence[str] = ()) -> Concept:
    """The concept of a word, with its surface forms.

    Args:
        name: The word, singular.
        forms: Other words that stand for it. Without any: those of a thing of the scenes, else the regular
            English plural. Case and a space in front need not be listed.

    Raises:
        InputError: the name is empty.
    """
    name = " ".join(name.split())
    if not name:
        raise InputError("the concept is empty; expected a word such as 'horse'")
    known = surface_forms(name.lower()) if name.lower() in NOUNS else (plural(name),)
    return Concept(name, tuple(form for form in forms or known if form != name))


def plural(noun: str) -> str:
    """The regular English plural.

    >>> plural("dog"), plural("bus"), plural("puppy"), plural("toy")
    ('dogs', 'buses', 'puppies', 'toys')
    """
    lower = noun.lower()
    if lower.endswith(("s", "x", "z", "ch", "sh")):
        return f"{noun}es"
    if lower.endswith("y") and lower[-2:-1] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}s"
