"""The prompts of the scenes: the same for a seed, of every kind, about their concept."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from nam.data.items import modalities_of
from nam.data.prompts import KINDS, ScenePrompts
from nam.errors import ConfigError
from nam.mllm.prompts import PromptCodec
from nam.world.language import parse
from nam.world.scene import NOUNS, combinations
from nam.world.words import surface_forms

ALL = ScenePrompts(concepts=("cat", "house"), draw=3, draw_two=2, draw_riddle=2, riddle=2, caption=1, same=1)


def test_every_concept_gets_every_prompt_in_order() -> None:
    items = [ALL[index] for index in range(len(ALL))]
    assert [item.index for item in items] == list(range(2 * 11))
    assert [item.sample.id for item in items[:3]] == ["cat-draw-0", "cat-draw-1", "cat-draw-2"]
    assert len({item.sample.id for item in items}) == len(items)
    assert len({item.sample.seed for item in items}) == len(items)
    for item in items:
        noun, kind, _ = item.sample.id.split("-")
        assert item.sample.concept is not None
        assert item.sample.concept.words == surface_forms(noun)
        assert item.modalities == modalities_of(KINDS[kind])
        assert (item.sample.image is not None) == (kind in ("caption", "same"))
        assert (noun in item.sample.prompt.split()) == (kind in ("draw", "draw_two"))
        assert not item.error
    draws = [item.sample.prompt for item in items if "-draw-" in item.sample.id]
    assert len(set(draws)) == len(draws)


def test_what_is_asked_for_lies_in_the_split() -> None:
    for index in range(len(ALL)):
        sample = ALL[index].sample
        if "-draw" not in sample.id or "riddle" in sample.id:
            continue
        facts = parse(str(sample.caption))
        assert len(facts.things) == (2 if "draw_two" in sample.id else 1)
        for noun, colour in facts.things:
            assert (noun, colour, facts.place) in combinations("test")


def test_a_picture_comes_with_the_mask_of_its_concept() -> None:
    item = next(ALL[index] for index in range(len(ALL)) if "-caption-" in ALL[index].sample.id)
    assert item.masks is not None
    image = np.asarray(item.sample.image)
    assert item.masks["cat"].shape == image.shape[:2]
    assert 0.02 < item.masks["cat"].mean() < 0.6


def test_prompts_follow_from_the_seed_and_not_from_the_other_concepts() -> None:
    def asked(source: ScenePrompts) -> list[tuple[str, str, int]]:
        samples = [source[index].sample for index in range(len(source))]
        return [(sample.id, sample.prompt, sample.seed) for sample in samples]

    alone = dataclasses.replace(ALL, concepts=("house",))
    assert asked(ALL) == asked(dataclasses.replace(ALL))
    assert set(asked(alone)) < set(asked(ALL))
    assert not set(asked(ALL)) & set(asked(dataclasses.replace(ALL, seed=1)))
    assert {row[0] for row in asked(ScenePrompts(concepts=()))} > {f"{noun}-draw-1" for noun in NOUNS}


def test_the_model_knows_every_word(shared_gill: object) -> None:
    codec: PromptCodec = shared_gill.codec  # type: ignore[attr-defined]
    for held_out in (False, True):
        source = ScenePrompts(concepts=(), held_out=held_out, same=1)
        for index in range(len(source)):
            sample = source[index].sample
            assert codec.encode(sample.prompt, pictures=int(sample.image is not None)).ids


def test_wrong_settings_name_their_key() -> None:
    with pytest.raises(
        ConfigError, match=r"data.source.concepts: unknown thing 'hors' .did you mean 'horse'"
    ):
        ScenePrompts(concepts=("hors",))
    with pytest.raises(ConfigError, match=r"data.source.split='tests'"):
        ScenePrompts(split="tests")
    with pytest.raises(ConfigError, match=r"data.source.riddle must be at least 0"):
        ScenePrompts(riddle=-1)
