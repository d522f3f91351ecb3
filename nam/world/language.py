"""Captions of scenes: how a scene is put in words, and how words are read back.

A caption is made from `Facts` (what is said about a scene) by a template. Some templates are held out:
they are produced only on request, so that a model can be asked in phrasings it was never trained on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from nam.world.scene import COLOURS, NOUNS, PLACES, Scene
from nam.world.templates import CHOICES
from nam.world.words import PLACE_PHRASES, article, pick, surface_forms


@dataclass(frozen=True)
class Facts:
    """What a caption says: things as (noun, colour or None), left to right, and the place or None."""

    things: tuple[tuple[str, str | None], ...]
    place: str | None = None


_GROUNDS = {place: f"the {place}" for place in PLACES}
_NOUN_OF = {form: noun for noun in NOUNS for form in surface_forms(noun)}
_NAMES = {(n, c): f"{c} {n}" if c else n for n in NOUNS for c in (None, *COLOURS)}
_PHRASES = {key: f"{article(name)} {name}" for key, name in _NAMES.items()}


def facts_of(scene: Scene) -> Facts:
    """Everything a caption can say about a scene."""
    return Facts(tuple((thing.noun, thing.colour) for thing in scene.things), scene.place)


def canonical_facts(facts: Facts) -> str:
    """The one canonical caption of what is said: "a red horse and a blue car on the grass"."""
    said = " and ".join(_PHRASES[thing] for thing in facts.things)
    return f"{said} {PLACE_PHRASES[facts.place]}" if facts.place else said


def canonical(scene: Scene, *, colour: bool = True, place: bool = True) -> str:
    """The one canonical caption of a scene, without its colours or its place on request."""
    things = tuple((thing.noun, thing.colour if colour else None) for thing in scene.things)
    return canonical_facts(Facts(things, scene.place if place else None))


def keywords(scene: Scene) -> str:
    """The five words that stand for a picture in text: "red horse no thing grass"."""
    pairs = [f"{thing.colour} {thing.noun}" for thing in scene.things]
    return f"{pairs[0]} {pairs[1] if len(pairs) > 1 else 'no thing'} {scene.place}"


def leave_out(facts: Facts, rng: np.random.Generator) -> Facts:
    """The same facts without a colour, all colours, the place, or colours and place."""
    draw = rng.random()
    things, place = facts.things, facts.place
    if draw < 0.65:
        hidden = range(len(things)) if draw < 0.45 else (int(rng.random() * len(things)),)
        things = tuple((noun, None if i in hidden else colour) for i, (noun, colour) in enumerate(things))
    if draw < 0.25 or draw >= 0.65:
        place = None
    return Facts(things, place)


def phrase(
    facts: Facts, rng: np.random.Generator, *, held_out: bool = False, noun_phrase: bool = False
) -> str:
    """One phrasing of facts, at most 14 tokens; with `noun_phrase`, one that can follow "draw ..."."""
    things, place = facts.things, facts.place
    coloured = all(colour for _, colour in things)
    choices = CHOICES[held_out, len(things) > 1, place is not None, coloured, noun_phrase]
    return fill(pick(rng, choices).text, facts)


def fill(template: str, facts: Facts) -> str:
    """A template's slots filled with facts; its slots must be among those that the facts have."""
    first, second = facts.things[0], facts.things[-1]
    return template.format(
        a=_PHRASES[first],
        b=_PHRASES[second],
        bare_a=_NAMES[first],
        bare_b=_NAMES[second],
        n=first[0],
        m=second[0],
        c=first[1],
        d=second[1],
        p=PLACE_PHRASES[facts.place] if facts.place else "",
        q=_GROUNDS[facts.place] if facts.place else "",
    )


def captions(scene: Scene, rng: np.random.Generator, *, held_out: bool = False, omit: float = 0.0) -> str:
    """One plain caption of a scene, at most 14 tokens, its two things named left to right.

    Args:
        scene: what to describe.
        rng: chooses the phrasing.
        held_out: use the phrasings that training never produces.
        omit: probability, 0..1, that colours and/or the place are left out.
    """
    facts = facts_of(scene)
    if omit and rng.random() < omit:
        facts = leave_out(facts, rng)
    return phrase(facts, rng, held_out=held_out)


def parse(caption: str) -> Facts:
    """The facts that a caption, a request or an answer states; words it does not know are passed over.

    A colour belongs to the next noun ("a red horse"), or to the last one if it follows "is" or "are"
    ("a horse that is red") or if no noun comes after it. Plurals and nicknames count as their noun.
    Never raises: text without a thing gives no things.
    """
    tokens = re.findall(r"[a-z]+|[^\sa-z]", caption.lower())
    things: list[tuple[str, str | None]] = []
    place: str | None = None
    pending: str | None = None
    for i, token in enumerate(tokens):
        following = tokens[i + 1] if i + 1 < len(tokens) else ""
        if token in _NOUN_OF:
            _add(things, _NOUN_OF[token], pending)
            pending = None
        elif token in PLACE_PHRASES:
            place = place or token
        elif token in COLOURS:
            says_is = i > 0 and tokens[i - 1] in ("is", "are") and following not in _NOUN_OF
            if says_is and things:
                _colour_last(things, token)
            else:
                pending = token
    if pending:
        _colour_last(things, pending)
    return Facts(tuple(things), place)


def _add(things: list[tuple[str, str | None]], noun: str, colour: str | None) -> None:
    """Add a thing, or complete it if it was named before ("a horse , the horse is red")."""
    for i, (known, known_colour) in enumerate(things):
        if known == noun and (colour is None or known_colour in (None, colour)):
            things[i] = (noun, known_colour or colour)
            return
    things.append((noun, colour))


def _colour_last(things: list[tuple[str, str | None]], colour: str) -> None:
    if things and things[-1][1] is None:
        things[-1] = (things[-1][0], colour)
