"""The pairs that scene_similarity is trained on: their texts state what their labels say."""

from __future__ import annotations

import re

import numpy as np
import pytest

from nam.data.batches import NumberedBatches
from nam.data.similarity import LENGTH, SimilarPairs, overlap, pair_tokenizer, perturb, statements, word_list
from nam.world.language import Facts, parse
from nam.world.scene import split_of
from nam.world.vocabulary import vocabulary

RED_HORSE = Facts((("horse", "red"),), "grass")


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (RED_HORSE, 1),
        (Facts((("horse", "blue"),), "grass"), 2 * 2 / 6),  # horse and grass, of three statements each
        (Facts((("cat", "red"),), "grass"), 2 * 1 / 6),  # a red cat is no red horse
        (Facts((("horse", None),), None), 2 * 1 / 4),
        (Facts((("car", "blue"), ("horse", "red")), "grass"), 2 * 3 / 8),
        (Facts((("cat", None),), "sea"), 0),
        (Facts(()), 0),
    ],
)
def test_overlap_by_hand(other: Facts, expected: float) -> None:
    assert overlap(RED_HORSE, other) == overlap(other, RED_HORSE) == pytest.approx(expected)


def test_order_and_colour_of_a_place_do_not_matter() -> None:
    two = Facts((("horse", "red"), ("car", None)), "grass")
    assert overlap(two, Facts(two.things[::-1], "grass")) == 1
    assert len(statements(two)) == 4
    assert overlap(Facts(()), Facts(())) == 0


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_labels_are_the_overlap_of_what_the_texts_state(split: str) -> None:
    rng = np.random.default_rng(1)
    pairs = [SimilarPairs(held_out=split == "test").pair(rng, split) for _ in range(600)]
    for first, second, label in pairs:
        assert label == pytest.approx(overlap(parse(first), parse(second))), (first, second)
    labels = np.array([label for *_, label in pairs])
    assert labels.min() == 0
    assert labels.max() == 1
    assert 0.25 < labels.std() < 0.45  # neither one kind of pair nor the other is missing


def test_training_captions_hold_training_combinations_only() -> None:
    make, rng = SimilarPairs(words=0.0), np.random.default_rng(2)
    for split in ("train", "val"):
        seen = set()
        for _ in range(400):
            first, second, _ = make.pair(rng, split)
            for facts in (parse(first), parse(second)) if split == "train" else (parse(first),):
                seen |= {split_of(n, c, facts.place) for n, c in facts.things if c and facts.place}
        assert seen == {split}


def test_perturbed_facts_can_be_said() -> None:
    rng = np.random.default_rng(3)
    changed = 0
    for _ in range(500):
        facts = parse(f"a red horse {'and a blue car ' if rng.random() < 0.5 else ''}on the grass")
        found = perturb(facts, rng)
        nouns = [noun for noun, _ in found.things]
        assert 1 <= len(nouns) == len(set(nouns)) <= 2
        changed += found != facts
    assert 300 < changed < 500


def test_word_lists_are_words_as_neurons_write_them() -> None:
    rng = np.random.default_rng(4)
    lists = [word_list(RED_HORSE, rng).split(", ") for _ in range(400)]
    assert all(1 <= len(words) == len(set(words)) <= 6 for words in lists)
    assert {word for words in lists for word in words} <= set(vocabulary())
    about_horses = sum(
        bool({"horse", "horses", "pony", "ponies", "foal", "foals"} & set(words)) for words in lists
    )
    assert 150 < about_horses < 350


def test_a_batch_is_aligned_and_follows_from_its_number() -> None:
    make = SimilarPairs()
    batches = NumberedBatches(make, size=16, count=3, split="train", seed=(0,))
    batch, again = batches[1], batches[1]
    assert all((batch[name] == again[name]).all() for name in batch)
    rng = np.random.default_rng([0, 1])
    for row in range(16):
        first, second, label = make.pair(rng, "train")
        ids, types = batch["input_ids"][row], batch["token_type_ids"][row]
        said = [make.tokenizer.decode(ids[types == t], skip_special_tokens=True) for t in (0, 1)]
        assert said == [first, re.sub(" ?,", " ,", second)]
        assert float(batch["overlap"][row]) == pytest.approx(label)
    assert batch["input_ids"].shape[1] <= LENGTH
    assert make.tokenizer.unk_token_id not in batch["input_ids"]


def test_the_pair_tokenizer_is_berts_layout(tmp_path) -> None:
    from transformers import AutoTokenizer

    tokenizer = pair_tokenizer()
    cat, dog = (tokenizer.convert_tokens_to_ids(word) for word in ("cat", "dog"))
    tokenizer.save_pretrained(tmp_path)
    for one in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        assert one("cat", "dog")["input_ids"] == [1, cat, 1, dog, 1]
        assert one("cat", "dog")["token_type_ids"] == [0, 0, 0, 1, 1]
        assert one("cat", return_special_tokens_mask=True)["special_tokens_mask"] == [1, 0, 1]
        assert len(one("cat " * 60, "dog " * 60, truncation=True)["input_ids"]) == LENGTH
