"""What is known about the things, the riddles made of it, and the mixture of training texts."""

from __future__ import annotations

import time
from collections import Counter, defaultdict

import numpy as np
import pytest

from nam.world import corpus, dialogues, facts, knowledge, phrasings
from nam.world.language import Facts, parse
from nam.world.scene import NOUNS
from nam.world.vocabulary import vocabulary
from nam.world.words import NICKNAMES, PLURALS, surface_forms, words_of


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_held_out_tables_use_trained_words_only() -> None:
    """Also: no template is in both a training table and its held-out one."""
    for module in (dialogues, phrasings):
        for name, held in vars(module).items():
            if name.startswith("HELD_"):
                assert not set(held) & set(getattr(module, name.removeprefix("HELD_"))), name
    rng = np.random.default_rng(3)
    trained = words_of(f"{t.prompt} {t.answer}" for t in (corpus.sample_text(rng) for _ in range(30000)))
    held = [corpus.sample_text(rng, held_out=True) for _ in range(30000)]
    assert words_of(f"{t.prompt} {t.answer}" for t in held) <= trained
    assert set(vocabulary()) <= trained, "words that no training text uses"


def test_facts_are_consistent() -> None:
    holders = defaultdict(set)
    for fact in facts.FACTS:
        assert fact.relation in facts.RELATIONS
        holders[fact.relation, fact.value].add(fact.noun)
    assert len(facts.FACTS) == sum(len(nouns) for nouns in holders.values()), "a fact is listed twice"
    counts = Counter()
    for fact in facts.FACTS:
        assert fact.unique == (len(holders[fact.relation, fact.value]) == 1)
        if fact.unique:
            counts[fact.noun] += 1
            assert parse(fact.singular) == Facts((), None), f"the riddle gives a thing or a place: {fact}"
    assert set(counts) == set(NOUNS)
    assert min(counts.values()) >= 4
    assert any(not fact.unique for fact in facts.FACTS)


def test_riddles_have_one_answer(rng: np.random.Generator) -> None:
    trained, held = knowledge.riddles(rng, held_out=False), knowledge.riddles(rng, held_out=True)
    answers = defaultdict(set)
    for riddle in trained + held:
        answers[riddle.prompt].add(riddle.answer_noun)
        assert parse(riddle.answer).things[0][0] == riddle.answer_noun
        assert parse(riddle.prompt).things == ()
        assert riddle.prompt[-1] in ".?:"
        assert riddle.answer[-1] == (":" if riddle.draw else ".")
        assert parse(riddle.prompt).place == parse(riddle.answer).place
    assert all(len(nouns) == 1 for nouns in answers.values())
    assert not {r.prompt for r in trained} & {r.prompt for r in held}
    assert {(r.answer_noun, r.draw) for r in held} == {(n, d) for n in NOUNS for d in (False, True)}
    shared = {prompt for prompt, _ in knowledge.shared()}
    assert not shared & set(answers), "a shared fact is asked as a riddle"


def test_every_riddle_fact_is_trained_and_no_held_out_riddle_is() -> None:
    rng = np.random.default_rng(4)
    texts = [corpus.sample_text(rng) for _ in range(60000)]
    prompts = {text.prompt for text in texts}
    assert not {r.prompt for r in knowledge.riddles(held_out=True)} & prompts
    missing = {r.prompt for r in knowledge.riddles(held_out=False)} - prompts
    assert len(missing) < 30
    said = " ".join(prompts)
    assert all(f" {fact.singular} " in said for fact in facts.FACTS if fact.unique)


def test_surface_forms() -> None:
    assert surface_forms("cat") == ("cat", "cats", "kitten", "kittens")
    forms = [form for noun in NOUNS for form in surface_forms(noun)]
    assert len(forms) == len(set(forms))
    assert set(forms) <= set(vocabulary())
    assert all(parse(form).things == ((noun, None),) for noun in NOUNS for form in surface_forms(noun))
    assert set(PLURALS) == set(NICKNAMES) == set(NOUNS) == set(facts.CATEGORIES) == set(facts.FOUND)
    with pytest.raises(KeyError, match="no thing is called 'zebra'; expected one of sun, moon"):
        surface_forms("zebra")


def test_mixture_has_the_agreed_shares() -> None:
    rng = np.random.default_rng(7)
    kinds = Counter(corpus.sample_text(rng).kind.split()[0] for _ in range(20000))
    texts = [corpus.sample_text(rng) for _ in range(20000)]
    copies = [text for text in texts if text.kind == "draw"]
    assert abs(len(copies) / len(texts) - 0.35) < 0.02
    assert abs(kinds["seen"] / 20000 - 0.10) < 0.01
    assert abs(sum(len(parse(t.answer).things) == 2 for t in copies) / len(copies) - 0.45) < 0.03
    again = np.random.default_rng(7)
    assert Counter(corpus.sample_text(again).kind.split()[0] for _ in range(20000)) == kinds


def test_fast_enough() -> None:
    rng = np.random.default_rng(8)
    corpus.sample_text(rng)
    start = time.process_time()
    for _ in range(2000):
        corpus.sample_text(rng)
    assert time.process_time() - start < 1.0
