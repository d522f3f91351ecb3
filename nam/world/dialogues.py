"""Requests and questions about a scene, with their answers.

Most need a picture: in text alone the five `keywords` stand in front of the prompt in its place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nam.world.language import Facts, canonical, canonical_facts, captions, facts_of, leave_out, phrase
from nam.world.scene import NOUNS, Scene
from nam.world.words import PLACE_PHRASES, a, pick

KINDS = ("draw", "what", "caption", "colour", "where", "next", "there", "same")
_KIND_SHARES = (0.45, 0.12, 0.10, 0.09, 0.06, 0.06, 0.04, 0.08)
_KIND_BOUNDS = tuple(float(bound) for bound in np.cumsum(_KIND_SHARES))


@dataclass(frozen=True)
class Exchange:
    """A prompt and its answer. `needs_picture`: the prompt is about a picture that stands before it.
    `draws`: the answer announces a picture. `kind`: one of KINDS."""

    prompt: str
    answer: str
    needs_picture: bool
    draws: bool
    kind: str


# {x} is a noun phrase: "a red horse on the grass".
DRAW: tuple[str, ...] = (
    "draw {x} .",
    "draw {x} .",
    "paint {x} .",
    "show me {x} .",
    "make a picture of {x} .",
    "i want to see {x} .",
    "please draw {x} .",
    "can you draw {x} ?",
    "draw a picture of {x} .",
    "i want a picture with {x} .",
    "now draw {x} .",
    "draw me {x} .",
    "draw an image of {x} .",
    "show {x} .",
    "could you draw {x} ?",
    "create a picture of {x} .",
    "generate an image of {x} .",
    "give me a picture of {x} .",
    "i would like to see {x} .",
)
HELD_DRAW: tuple[str, ...] = (
    "please show me {x} .",
    "i want a picture of {x} .",
    "can you paint {x} ?",
    "please make a picture with {x} .",
    "paint me {x} .",
    "could you show me {x} ?",
    "create an image of {x} .",
    "i would like a picture of {x} .",
)
# {x} is any caption, whole sentences included.
DRAW_ANY: tuple[str, ...] = (
    "draw this : {x} .",
    "paint this : {x} .",
    "show me this : {x} .",
    "make a picture : {x} .",
    "{x} .",
    "{x} . draw it .",
    "{x} . please paint it .",
)
HELD_DRAW_ANY: tuple[str, ...] = (
    "please draw this : {x} .",
    "{x} . show me .",
    "make this picture : {x} .",
)
WHAT: tuple[str, ...] = (
    "what is this ?",
    "what do you see ?",
    "what is in the picture ?",
    "tell me what this is .",
)
HELD_WHAT: tuple[str, ...] = ("what is in this picture ?", "tell me what you see .")
CAPTION: tuple[str, ...] = (
    "a picture of",
    "this is a picture of",
    "this picture is of",
    "a picture of .",
    "what is the caption ?",
)
HELD_CAPTION: tuple[str, ...] = ("the picture is of", "this is")
SAME: tuple[str, ...] = (
    "a picture like this :",
    "draw the same .",
    "draw the same as this picture .",
    "draw this picture .",
    "make a picture like this .",
    "show me the same .",
)
HELD_SAME: tuple[str, ...] = (
    "paint the same .",
    "please draw a picture like this .",
    "make the same picture .",
)
# {n} is a noun of the scene.
COLOUR: tuple[str, ...] = (
    "what colour is the {n} ?",
    "which colour is the {n} ?",
    "tell me the colour of the {n} .",
    "what colour has the {n} ?",
)
HELD_COLOUR: tuple[str, ...] = ("what is the colour of the {n} ?", "which colour has the {n} ?")
WHERE: tuple[str, ...] = ("where is the {n} ?", "where do you see the {n} ?", "tell me where the {n} is .")
HELD_WHERE: tuple[str, ...] = ("where do we see the {n} ?",)
NEXT: tuple[str, ...] = (
    "what is next to the {n} ?",
    "what is beside the {n} ?",
    "what do you see next to the {n} ?",
)
HELD_NEXT: tuple[str, ...] = ("what do you see beside the {n} ?",)
THERE: tuple[str, ...] = ("is there a {n} ?", "do you see a {n} ?", "is there a {n} in the picture ?")
HELD_THERE: tuple[str, ...] = ("do you see a {n} in this picture ?",)

COLOUR_ANSWER = "the {n} is {c} ."
WHERE_ANSWER = "the {n} is {p} ."
NEXT_ANSWER = "{x} is next to the {n} ."
ALONE_ANSWER = "nothing is next to the {n} ."
YES_ANSWER = "yes , there is {x} ."
NO_ANSWER = "no , there is no {n} ."


def dialogue(scene: Scene, rng: np.random.Generator, *, held_out: bool = False) -> tuple[str, str]:
    """A prompt about a scene and its answer; see `exchange` for whether the prompt needs the picture."""
    found = exchange(scene, rng, held_out=held_out)
    return found.prompt, found.answer


def exchange(
    scene: Scene,
    rng: np.random.Generator,
    *,
    kind: str | None = None,
    held_out: bool = False,
    omit: float = 0.15,
) -> Exchange:
    """A request or a question about a scene, and its answer.

    Args:
        scene: what is asked for, or what the picture shows.
        rng: chooses the kind, where none is given, and the wording.
        kind: one of KINDS.
        held_out: use the wordings that training never produces.
        omit: probability that a request to draw leaves out colours or the place.

    Raises:
        ValueError: unknown kind.
    """
    if kind is None:
        draw = rng.random()
        kind = next((k for k, bound in zip(KINDS, _KIND_BOUNDS, strict=True) if draw < bound), KINDS[-1])
    if kind == "draw":
        facts = facts_of(scene)
        if omit and rng.random() < omit:
            facts = leave_out(facts, rng)
        return draw_request(facts, rng, held_out=held_out)
    if kind == "what":
        prompt = pick(rng, HELD_WHAT if held_out else WHAT)
        return Exchange(prompt, f"it is {canonical(scene)} .", True, False, kind)
    if kind == "caption":
        prompt = pick(rng, HELD_CAPTION if held_out else CAPTION)
        return Exchange(prompt, f"{canonical(scene)} .", True, False, kind)
    if kind == "same":
        prompt = pick(rng, HELD_SAME if held_out else SAME)
        return Exchange(prompt, f"here is {canonical(scene)} :", True, True, kind)
    if kind in KINDS:
        prompt, answer = _question(scene, rng, kind=kind, held_out=held_out)
        return Exchange(prompt, answer, True, False, kind)
    raise ValueError(f"unknown kind {kind!r}: expected one of {', '.join(KINDS)}")


def draw_request(facts: Facts, rng: np.random.Generator, *, held_out: bool = False) -> Exchange:
    """A request to draw what the facts say, in any phrasing; the answer repeats them canonically.

    With `held_out` the wording, the phrasing of the caption, or both are held-out ones.
    """
    part = rng.random() if held_out else 1.0
    held_wording, held_caption = held_out and part < 0.7, held_out and part > 0.4
    if rng.random() < 0.7:
        wording = pick(rng, HELD_DRAW if held_wording else DRAW)
        caption = phrase(facts, rng, held_out=held_caption, noun_phrase=True)
    else:
        wording = pick(rng, HELD_DRAW_ANY if held_wording else DRAW_ANY)
        caption = phrase(facts, rng, held_out=held_caption)
    return Exchange(wording.format(x=caption), f"here is {canonical_facts(facts)} :", False, True, "draw")


def told(scene: Scene, rng: np.random.Generator, *, held_out: bool = False) -> Exchange:
    """A question about a scene that is told in words first: it needs no picture."""
    kind = ("colour", "where", "next", "there")[int(rng.random() * 4)]
    prompt, answer = _question(scene, rng, kind=kind, held_out=held_out)
    return Exchange(f"{captions(scene, rng, held_out=held_out)} . {prompt}", answer, False, False, kind)


def _question(scene: Scene, rng: np.random.Generator, *, kind: str, held_out: bool) -> tuple[str, str]:
    """A question about one of a scene's things, and its answer."""
    thing = pick(rng, scene.things)
    noun = thing.noun
    others = [other for other in scene.things if other is not thing]
    if kind == "colour":
        return pick(rng, HELD_COLOUR if held_out else COLOUR).format(n=noun), COLOUR_ANSWER.format(
            n=noun, c=thing.colour
        )
    if kind == "where":
        return pick(rng, HELD_WHERE if held_out else WHERE).format(n=noun), WHERE_ANSWER.format(
            n=noun, p=PLACE_PHRASES[scene.place]
        )
    if kind == "next":
        answer = ALONE_ANSWER.format(n=noun)
        if others:
            answer = NEXT_ANSWER.format(x=a(f"{others[0].colour} {others[0].noun}"), n=noun)
        return pick(rng, HELD_NEXT if held_out else NEXT).format(n=noun), answer
    question = pick(rng, HELD_THERE if held_out else THERE)
    asked = noun if rng.random() < 0.5 else pick(rng, NOUNS)
    shown = {thing.noun: thing.colour for thing in scene.things}
    if asked in shown:
        return question.format(n=asked), YES_ANSWER.format(x=a(f"{shown[asked]} {asked}"))
    return question.format(n=asked), NO_ANSWER.format(n=asked)
