"""Requests for words of one's own, to attribute and to edit by."""

from __future__ import annotations

import pytest

from nam.data.words import WordPairs, WordPrompts
from nam.errors import ConfigError


def test_every_concept_is_asked_for_again_with_other_noise() -> None:
    source = WordPrompts(
        concepts=("horse", "ship"), prompts=("draw a {concept} .", "a {concept} ?"), repeats=3
    )
    items = [source[index] for index in range(len(source))]
    assert [item.index for item in items] == list(range(6))
    assert [item.sample.prompt for item in items[3:]] == ["draw a ship .", "a ship ?", "draw a ship ."]
    assert [item.sample.id for item in items[:2]] == ["horse-0", "horse-1"]
    assert len({item.sample.seed for item in items}) == 6
    assert items[0].sample.concept.words == ("horse", "horses", "pony", "ponies", "foal", "foals")
    assert {item.modalities for item in items} == {("text", "image")}
    other = WordPrompts(concepts=("ship", "horse"), repeats=5)  # a request follows from its word and number
    assert other[2].sample.seed == items[5].sample.seed
    assert WordPrompts(concepts=("ship",), seed=1)[0].sample.seed != items[3].sample.seed
    assert WordPrompts(concepts=("ship",), modality="image")[0].modalities == ("image",)


def test_both_sides_of_an_edit_differ_in_the_word_alone() -> None:
    pairs = WordPairs(
        prompts=("draw a {concept} .", "a big {concept} ."), held_out_prompts=("one {concept}", "x {concept}")
    )
    source, target = pairs.of("boy"), pairs.of("girl", like="boy")
    assert [one.sample.prompt for one in source] == ["draw a boy .", "a big boy ."]
    assert [one.sample.prompt for one in target] == ["draw a girl .", "a big girl ."]
    assert [one.sample.seed for one in source] == [one.sample.seed for one in target]
    held = pairs.held_out("boy", "draw", 2, seeds=3)
    assert [one.sample.prompt for one in held] == ["one boy"] * 3 + ["x boy"] * 3
    assert len({one.sample.seed for one in (*held, *source)}) == 8
    assert len({one.sample.id for one in held}) == 6
    assert len(pairs.held_out("boy", "draw", 1, seeds=2)) == 2


def test_what_asks_for_nothing_is_refused() -> None:
    for settings, message in (
        ({"concepts": ()}, "data.source needs concepts"),
        ({"concepts": ("cat", " ")}, r"data\.source\.concepts: expected different words, got \['cat', ' '\]"),
        ({"concepts": ("cat", "cat")}, "expected different words"),
        ({"repeats": 0}, r"data\.source\.repeats must be an integer of at least 1, got 0"),
        ({"prompts": ()}, r"data\.source\.prompts is empty"),
        ({"prompts": ("draw it",)}, r"data\.source\.prompts: \{concept\} must stand .* got 'draw it'"),
        ({"prompts": ("draw {thing}",)}, r"\{concept\} must stand"),
        ({"modality": "sound"}, r"data\.source\.modality must be"),
    ):
        with pytest.raises(ConfigError, match=message):
            WordPrompts(**{"concepts": ("horse",), **settings})
    with pytest.raises(ConfigError, match=r"norms\.prompts\.held_out_prompts: \{concept\}"):
        WordPairs(held_out_prompts=("x",))
