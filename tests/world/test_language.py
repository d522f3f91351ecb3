"""The language of the world: what is said of a scene is read back, held-out phrasings stay held out."""

from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np
import pytest

from nam.world import dialogues, language, templates
from nam.world.language import Facts, canonical, canonical_facts, captions, facts_of, keywords, parse
from nam.world.scene import COLOURS, NOUNS, PLACES, Scene, Thing, sample_scene
from nam.world.vocabulary import vocabulary

BOX = (0.2, 0.2, 0.8, 0.8)
HORSE = Scene((Thing("horse", "red", BOX),), "grass")
PAIR = Scene((Thing("horse", "red", BOX), Thing("car", "blue", BOX)), "night")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def phrasings_of(said: Facts, *, held_out: bool) -> dict[str, str]:
    """Every phrasing of facts: template -> caption."""
    coloured = all(colour for _, colour in said.things)
    choices = templates.CHOICES[held_out, len(said.things) > 1, said.place is not None, coloured, False]
    return {template.text: language.fill(template.text, said) for template in choices}


def all_facts(rng: np.random.Generator, count: int) -> list[Facts]:
    scenes = (sample_scene(rng, two_things=0.5) for _ in range(count))
    return [f for s in scenes for f in (facts_of(s), language.leave_out(facts_of(s), rng))]


def test_canonical_caption() -> None:
    assert canonical(HORSE) == "a red horse on the grass"
    assert canonical(PAIR) == "a red horse and a blue car at night"
    assert canonical(PAIR, colour=False) == "a horse and a car at night"
    assert canonical(HORSE, colour=False, place=False) == "a horse"
    assert canonical_facts(Facts((("sun", "orange"),), "sea")) == "an orange sun by the sea"
    assert keywords(HORSE) == "red horse no thing grass"
    assert keywords(PAIR) == "red horse blue car night"


@pytest.mark.parametrize("held_out", [False, True])
def test_every_phrasing_is_read_back(rng: np.random.Generator, held_out: bool) -> None:
    seen = Counter()
    for said in all_facts(rng, 1500):
        for template, caption in phrasings_of(said, held_out=held_out).items():
            assert parse(caption) == said, caption
            assert len(caption.split()) + 2 <= 16, caption  # with start and end, as CLIP reads it
            seen[template] += 1
        assert parse(canonical_facts(said)) == said
        assert parse(f"here is {canonical_facts(said)} :") == said
        assert parse(f"it is {canonical_facts(said)} .") == said
    assert len(seen) >= (3 if held_out else 8) * 2


def test_every_combination_is_read_back() -> None:
    for noun, colour, place in product(NOUNS, (None, *COLOURS), (None, *PLACES)):
        said = Facts(((noun, colour),), place)
        assert parse(canonical_facts(said)) == said


@pytest.mark.parametrize("held_out", [False, True])
def test_requests_to_draw_are_read_back(rng: np.random.Generator, held_out: bool) -> None:
    for said in all_facts(rng, 1000):
        request = dialogues.draw_request(said, rng, held_out=held_out)
        assert parse(request.prompt) == said, request.prompt
        assert request.answer == f"here is {canonical_facts(said)} :"


def test_parse_of_odd_text() -> None:
    assert parse("") == parse("\x00 ??? 123 <b> ünï") == Facts((), None)
    assert parse("two Red Kittens, in the SNOW!!") == Facts((("cat", "red"),), "snow")
    assert parse("red") == Facts((), None)
    assert parse("red blue green horse") == Facts((("horse", "green"),), None)
    assert parse("a zebra and a very shiny dog") == Facts((("dog", None),), None)
    assert parse("the puppies are pink and the pony is white") == Facts(
        (("dog", "pink"), ("horse", "white")), None
    )
    assert parse("a horse , red") == Facts((("horse", "red"),), None)
    assert parse("a red cat and a blue cat") == Facts((("cat", "red"), ("cat", "blue")), None)
    rng = np.random.default_rng(1)
    for _ in range(300):
        parse("".join(chr(c) for c in rng.integers(1, 0x500, size=40)))
        parse(" ".join(rng.permutation(vocabulary())[:20]))


def test_held_out_captions_are_never_trained(rng: np.random.Generator) -> None:
    trained = {caption for f in all_facts(rng, 300) for caption in phrasings_of(f, held_out=False).values()}
    for said in all_facts(np.random.default_rng(0), 300):
        ours = phrasings_of(said, held_out=False).values()
        held = phrasings_of(said, held_out=True).values()
        assert not set(ours) & set(held)
        assert not trained & set(held)
    scene_words = {captions(PAIR, rng, held_out=True) for _ in range(100)}
    assert len(scene_words) >= 3
    assert not scene_words & {captions(PAIR, rng) for _ in range(300)}
    assert len({captions(PAIR, rng) for _ in range(300)}) >= 8


def test_omission_leaves_out_only_what_it_may(rng: np.random.Generator) -> None:
    full, seen = facts_of(PAIR), set()
    for _ in range(300):
        said = parse(captions(PAIR, rng, omit=1.0))
        assert said != full
        assert [n for n, _ in said.things] == ["horse", "car"]
        assert all(c in (None, of) for (_, c), (_, of) in zip(said.things, full.things, strict=True))
        seen.add((said.place, *(c for _, c in said.things)))
    assert {(None, "red", "blue"), ("night", None, None), (None, None, None), ("night", "red", None)} <= seen


@pytest.mark.parametrize("kind", dialogues.KINDS)
@pytest.mark.parametrize("held_out", [False, True])
def test_exchanges(rng: np.random.Generator, kind: str, held_out: bool) -> None:
    for _ in range(200):
        scene = sample_scene(rng, two_things=0.5)
        found = dialogues.exchange(scene, rng, kind=kind, held_out=held_out)
        assert found.kind == kind
        assert found.needs_picture == (kind != "draw")
        assert found.draws == (kind in ("draw", "same")) == found.answer.endswith(":")
        assert found.answer[-1] == (":" if found.draws else ".")
        if kind in ("what", "caption", "same"):
            assert parse(found.answer) == facts_of(scene)
        if kind == "where":
            assert parse(found.answer).place == scene.place
        if kind == "colour":
            assert parse(found.answer).things[0] in facts_of(scene).things
        if kind == "next":
            assert found.answer.startswith("nothing") == (len(scene.things) == 1)
        if kind == "there":
            noun = parse(found.prompt).things[0][0]
            assert found.answer.startswith("yes") == (noun in [t.noun for t in scene.things])


def test_dialogue_is_the_exchange(rng: np.random.Generator) -> None:
    found = dialogues.exchange(HORSE, np.random.default_rng(5))
    assert dialogues.dialogue(HORSE, np.random.default_rng(5)) == (found.prompt, found.answer)
    kinds = Counter(dialogues.exchange(HORSE, rng).kind for _ in range(600))
    assert set(kinds) == set(dialogues.KINDS)
    with pytest.raises(ValueError, match="unknown kind 'sing': expected one of draw, what"):
        dialogues.exchange(HORSE, rng, kind="sing")
