"""Which thing or place of the world a concept is."""

from __future__ import annotations

from collections.abc import Sequence

from nam.errors import InputError
from nam.types import Concept
from nam.world.scene import NOUNS
from nam.world.words import surface_forms


def class_of(concept: Concept, known: Sequence[str]) -> str:
    """The class that a concept stands for: by its name, else by the first of its forms that is known.

    A class is known by its name, a thing also by its plural and nicknames ("puppies" is a dog).

    Raises:
        InputError: none; the message names the classes.
    """
    by_word = {form: name for name in known for form in (surface_forms(name) if name in NOUNS else (name,))}
    for word in concept.words:
        if word.strip().lower() in by_word:
            return by_word[word.strip().lower()]
    raise InputError(f"the segmenter does not know {concept.name!r}; it knows {', '.join(known)}")
