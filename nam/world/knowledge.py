"""Sentences about what is known: statements, questions, riddles, requests to draw what a riddle means.

Every sentence is a (prompt, answer) pair of plain words; the prompt of a bare statement is empty. Only
phrasings are held out: each word of a held-out phrasing also occurs in training text, and each fact is
told in every training phrasing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nam.world.facts import CATEGORIES, CATEGORY_PLURALS, FACTS, FOUND, RELATIONS, SIZES, Fact
from nam.world.language import Facts, canonical_facts
from nam.world.phrasings import (
    ABOUT_GLOW,
    ABOUT_NICKNAME,
    ABOUT_NOUN,
    ALIKE,
    COMPARISONS,
    DRAW_RIDDLES,
    HELD_ABOUT_NICKNAME,
    HELD_ABOUT_NOUN,
    HELD_COMPARISONS,
    HELD_DRAW_RIDDLES,
    HELD_SCENE_RIDDLES,
    HELD_STATEMENTS,
    HELD_TEXT_RIDDLES,
    SCENE_RIDDLES,
    SHARED,
    STATEMENTS,
    TEXT_RIDDLES,
    UNLIKE,
    Pair,
)
from nam.world.scene import COLOURS, NOUNS, PLACES
from nam.world.words import GLOWS, NICKNAMES, PLACE_PHRASES, PLURALS, a, article, pick


@dataclass(frozen=True)
class Riddle:
    """A question that one thing alone answers. `draw`: the answer announces a picture of it."""

    prompt: str
    answer: str
    answer_noun: str
    draw: bool


def _slots(noun: str) -> dict[str, str]:
    kind = CATEGORIES[noun]
    return {
        "a": a(noun), "n": noun, "ns": PLURALS[noun], "found": FOUND[noun],
        "k": kind, "ks": CATEGORY_PLURALS[kind], "ak": a(kind),
    }  # fmt: skip


def _does(fact: Fact, noun: str) -> str:
    """The fact as a question about a noun: "does a cat say meow"."""
    if fact.relation in ("can", "is"):
        return f"{fact.relation} {a(noun)} {fact.value}"
    return f"does {a(noun)} {RELATIONS[fact.relation][0]} {fact.value}"


def _fact_slots(fact: Fact) -> dict[str, str]:
    forms = {"vs": fact.singular, "vp": fact.plural, "vi": fact.first_person}
    return _slots(fact.noun) | forms | {"does_a": _does(fact, fact.noun)}


def denial(fact: Fact, rng: np.random.Generator) -> Pair:
    """A unique fact asked of another thing: "does a dog say meow ? no , a cat says meow .".

    The other thing is of another category, unless the fact is a sound: no cat says woof, but it may
    well wear a collar.
    """
    kind = CATEGORIES[fact.noun]
    allowed = tuple(
        noun for noun in NOUNS if CATEGORIES[noun] != kind or (fact.relation == "says" and noun != fact.noun)
    )
    wrong = pick(rng, allowed)
    return f"{_does(fact, wrong)} ?", f"no , {a(fact.noun)} {fact.singular} ."


def _filled(templates: tuple[Pair, ...], slots: dict[str, str]) -> list[Pair]:
    return [(prompt.format(**slots), answer.format(**slots)) for prompt, answer in templates]


def statements(*, held_out: bool = False) -> list[Pair]:
    """Every fact told, asked and confirmed."""
    pairs: list[Pair] = []
    for fact in FACTS:
        slots = _fact_slots(fact)
        pairs += _filled(HELD_STATEMENTS if held_out else STATEMENTS, slots)
        question = RELATIONS[fact.relation][1]
        if question and not held_out:
            pairs.append((question.format(noun=slots["a"]), f"{slots['a']} {fact.singular} ."))
            asked = question.replace(" does ", " do ").format(noun=slots["ns"])
            pairs.append((asked, f"{slots['ns']} {fact.plural} ."))
    return pairs


def riddles(rng: np.random.Generator | None = None, *, held_out: bool) -> list[Riddle]:
    """Every unique fact in every riddle phrasing, to be answered in text and by drawing.

    Args:
        rng: if given, drawing riddles that also ask for a random colour and place are added.
        held_out: the phrasings that training never produces.
    """
    text, draw, scene = (
        (HELD_TEXT_RIDDLES, HELD_DRAW_RIDDLES, HELD_SCENE_RIDDLES)
        if held_out
        else (TEXT_RIDDLES, DRAW_RIDDLES, SCENE_RIDDLES)
    )
    found: list[Riddle] = []
    for fact in FACTS:
        if fact.unique:
            slots, noun = _fact_slots(fact), fact.noun
            found += [Riddle(t.format(**slots), f"{a(noun)} .", noun, False) for t in text]
            found += [Riddle(t.format(**slots), f"here is {a(noun)} :", noun, True) for t in draw]
            if rng is not None:
                found += [scene_riddle(fact, t, rng) for t in scene]
    return found


def scene_riddle(fact: Fact, template: str, rng: np.random.Generator) -> Riddle:
    """A riddle to be drawn in a random colour at a random place; now and then one of them is left out."""
    draw = rng.random()
    colour = pick(rng, COLOURS) if draw < 0.85 else None
    place = pick(rng, PLACES) if draw > 0.15 else None
    kind = CATEGORIES[fact.noun] if rng.random() < 0.6 else "thing"
    coloured = f"{article(colour)} {colour} {kind}" if colour else a(kind)
    where = PLACE_PHRASES[place] if place else ""
    prompt = template.format(ck=coloured, p=where, vs=fact.singular)
    answer = canonical_facts(Facts(((fact.noun, colour),), place))
    return Riddle(_tidy(prompt), f"here is {answer} :", fact.noun, True)


def _tidy(text: str) -> str:
    """A prompt whose place was left out, without the gap and the comma that stood before it."""
    return " ".join(text.split()).replace(" , .", " .").removeprefix(", ")


def about_nouns(*, held_out: bool = False) -> list[Pair]:
    """Categories, where things are found, singular and plural."""
    templates = HELD_ABOUT_NOUN if held_out else ABOUT_NOUN
    return [pair for noun in NOUNS for pair in _filled(templates, _slots(noun))]


def about_names(*, held_out: bool = False) -> list[Pair]:
    """Nicknames and the light that comes from a thing."""
    pairs: list[Pair] = []
    for noun in NOUNS:
        for single, many, kind in NICKNAMES[noun]:
            slots = _slots(noun) | {"x": a(single), "xs": many, "kind": kind, "akind": a(kind)}
            pairs += _filled(HELD_ABOUT_NICKNAME if held_out else ABOUT_NICKNAME, slots)
        if noun in GLOWS and not held_out:
            pairs += _filled(ABOUT_GLOW, _slots(noun) | {"glow": GLOWS[noun]})
    return pairs


def comparisons(*, held_out: bool = False) -> list[Pair]:
    """Sizes, and which things are of one category."""
    pairs: list[Pair] = []
    for noun in NOUNS:
        for other in NOUNS:
            slots = _slots(noun) | {"b": a(other), "ak_b": a(CATEGORIES[other])}
            if noun in SIZES and other in SIZES and SIZES[noun] > SIZES[other]:
                pairs += _filled(HELD_COMPARISONS if held_out else COMPARISONS, slots)
            if noun != other and not held_out:
                pairs += _filled(ALIKE if CATEGORIES[noun] == CATEGORIES[other] else UNLIKE, slots)
    return pairs


def shared() -> list[Pair]:
    """Questions that several things answer: "what has fur ? a cat and a dog ."."""
    pairs: list[Pair] = []
    for fact in FACTS:
        holders = [a(f.noun) for f in FACTS if f.singular == fact.singular]
        if not fact.unique and holders[0] == a(fact.noun):
            everyone = f"{' , '.join(holders[:-1])} and {holders[-1]}"
            pairs += _filled(SHARED, _fact_slots(fact) | {"all": everyone})
    return pairs
