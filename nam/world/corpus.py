"""The text that the language model is trained on: copies, dialogue and knowledge in fixed shares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from nam.world import knowledge
from nam.world.dialogues import draw_request, exchange, told
from nam.world.facts import FACTS
from nam.world.language import canonical, facts_of, keywords, leave_out
from nam.world.phrasings import HELD_SCENE_RIDDLES, SCENE_RIDDLES, Pair
from nam.world.scene import COLOURS, PLACES, Scene, sample_scene
from nam.world.words import NICKNAMES, PLACE_PHRASES, a, pick

_TWO_THINGS_COPIED = 0.45
_OMIT = 0.25
_SEEN = ("what",) * 3 + ("caption",) * 3 + ("same",) * 3 + ("colour", "where", "next", "there", "draw")


@dataclass(frozen=True)
class Text:
    """One training text, "<prompt> <answer>". The prompt is empty for a bare statement, and begins with
    the five keywords where it is about a picture."""

    prompt: str
    answer: str
    kind: str

    @property
    def knows(self) -> bool:
        """Whether the answer takes knowledge of the things, beyond what the prompt or a picture says."""
        return self.kind not in ("draw", "draw keywords") and not self.kind.startswith(("seen", "told"))


Maker = Callable[[np.random.Generator, bool, str], Text]


def sample_text(rng: np.random.Generator, *, held_out: bool = False, split: str = "train") -> Text:
    """One text of the mixture.

    Args:
        rng: chooses everything; the same state gives the same text.
        held_out: phrasings that training never produces (where a kind has them).
        split: the scenes that are talked about.
    """
    draw = rng.random()
    for bound, make in _MIXTURE:
        if draw < bound:
            return make(rng, held_out, split)
    return _MIXTURE[-1][1](rng, held_out, split)


def _copy(rng: np.random.Generator, held_out: bool, split: str) -> Text:
    facts = facts_of(sample_scene(rng, split=split, two_things=_TWO_THINGS_COPIED))
    if rng.random() < _OMIT:
        facts = leave_out(facts, rng)
    request = draw_request(facts, rng, held_out=held_out)
    return Text(request.prompt, request.answer, "draw")


def _about_picture(rng: np.random.Generator, held_out: bool, split: str) -> Text:
    scene = sample_scene(rng, split=split, two_things=_TWO_THINGS_COPIED)
    kind = pick(rng, _SEEN)
    if kind == "draw":  # something else than what is seen: the picture is to be passed over
        other = _copy(rng, held_out, split)
        return Text(f"{keywords(scene)} {other.prompt}", other.answer, "seen draw")
    said = exchange(scene, rng, kind=kind, held_out=held_out)
    return Text(f"{keywords(scene)} {said.prompt}", said.answer, f"seen {kind}")


def _told(rng: np.random.Generator, held_out: bool, split: str) -> Text:
    scene = sample_scene(rng, split=split, two_things=_TWO_THINGS_COPIED)
    if rng.random() < 0.2:
        return _told_to_draw(scene)
    said = told(scene, rng, held_out=held_out)
    return Text(said.prompt, said.answer, f"told {said.kind}")


def _told_to_draw(scene: Scene) -> Text:
    """What the keywords mean without a picture: a request in bare words."""
    return Text(f"{keywords(scene)} .", f"here is {canonical(scene)} :", "draw keywords")


@lru_cache(maxsize=2)
def _riddles(held_out: bool) -> tuple[tuple[Text, ...], tuple[Text, ...]]:
    found = knowledge.riddles(held_out=held_out)
    return (
        tuple(Text(r.prompt, r.answer, "riddle") for r in found if not r.draw),
        tuple(Text(r.prompt, r.answer, "draw riddle") for r in found if r.draw),
    )


_UNIQUE = tuple(fact for fact in FACTS if fact.unique)


def _riddle(rng: np.random.Generator, held_out: bool, split: str) -> Text:
    return pick(rng, _riddles(held_out)[0])


def _draw_riddle(rng: np.random.Generator, held_out: bool, split: str) -> Text:
    if rng.random() < 0.5:
        return pick(rng, _riddles(held_out)[1])
    templates = HELD_SCENE_RIDDLES if held_out else SCENE_RIDDLES
    riddle = knowledge.scene_riddle(pick(rng, _UNIQUE), pick(rng, templates), rng)
    return Text(riddle.prompt, riddle.answer, "draw scene riddle")


def _table(make: Callable[..., list[Pair]], kind: str) -> Maker:
    @lru_cache(maxsize=2)
    def rows(held_out: bool) -> tuple[Text, ...]:
        return tuple(Text(*pair, kind) for pair in make(held_out=held_out))

    return lambda rng, held_out, split: pick(rng, rows(held_out))


@lru_cache(maxsize=1)
def _shared() -> tuple[Text, ...]:
    return tuple(Text(*pair, "shared") for pair in knowledge.shared())


def _nickname(rng: np.random.Generator, held_out: bool, split: str) -> Text:
    """A scene asked for by nickname: "draw a red kitten on the grass . here is a red cat on the grass :"."""
    noun = pick(rng, tuple(noun for noun, names in NICKNAMES.items() if names))
    name = pick(rng, NICKNAMES[noun])[0]
    colour, place = pick(rng, COLOURS), PLACE_PHRASES[pick(rng, PLACES)]
    prompt = f"draw {a(f'{colour} {name}')} {place} ."
    return Text(prompt, f"here is {a(f'{colour} {noun}')} {place} :", "draw nickname")


def _wrong(rng: np.random.Generator, held_out: bool, split: str) -> Text:
    """A unique fact asked of the wrong thing: "does a dog say meow ? no , a cat says meow ."."""
    return Text(*knowledge.denial(pick(rng, _UNIQUE), rng), "denial")


_SHARES: tuple[tuple[float, Maker], ...] = (
    (0.35, _copy),
    (0.10, _about_picture),
    (0.10, _told),
    (0.10, _table(knowledge.statements, "statement")),
    (0.10, _riddle),
    (0.13, _draw_riddle),
    (0.04, _table(knowledge.about_nouns, "noun")),
    (0.02, _table(knowledge.about_names, "name")),
    (0.02, _nickname),
    (0.02, _table(knowledge.comparisons, "comparison")),
    (0.01, lambda rng, held_out, split: pick(rng, _shared())),
    (0.01, _wrong),
)
_MIXTURE = tuple((sum(share for share, _ in _SHARES[: i + 1]), make) for i, (_, make) in enumerate(_SHARES))
