"""Where a concept is in an answer, for tokenizers of whole words and of pieces; and the region's target."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nam.errors import TargetError
from nam.mllm.gill import GILL
from nam.relevance.base import RelevanceMap
from nam.targets import image_target, text_target
from nam.types import Concept, Generation, Spans


def generation_of(tokenizer: Any, prompt: str, answer: str) -> Generation:
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, answer)]
    spans = Spans.of_lengths(system=1, picture=0, text=len(ids[0]), answer=len(ids[1]), img=0)
    return Generation(
        prompt=prompt,
        text=answer,
        token_ids=(0, *ids[0], *ids[1]),
        spans=spans,
        finish="stop",
        seed=0,
    )


@pytest.fixture(scope="module")
def pieces() -> Any:
    """A model's tokenizer like OPT's: pieces of bytes, the space in front belonging to the word."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    core = ByteLevelBPETokenizer()
    core.train_from_iterator(["a horse and a cat", "the horse", "cat cats", "a car"] * 9, vocab_size=276)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core._tokenizer)
    weight = torch.randn(len(tokenizer), 4, generator=torch.Generator().manual_seed(0))
    return SimpleNamespace(name="pieces", tokenizer=tokenizer, unembedding=weight)


def said(mllm: Any, generation: Generation, concept: Concept) -> list[str]:
    target = text_target(mllm, generation, concept)
    for position, token, row in zip(target.positions, target.token_ids, target.directions, strict=True):
        assert generation.token_ids[position + 1] == token
        assert torch.equal(row, mllm.unembedding[token].float())
    return [mllm.tokenizer.decode([token]) for token in target.token_ids]


def test_every_form_and_every_occurrence_in_the_answer_counts(shared_gill: GILL) -> None:
    answer = "a cat and two kittens by a horse . Cats and a cat"
    generation = generation_of(shared_gill.tokenizer, "a cat .", answer)
    assert said(shared_gill, generation, Concept("cat", ("cats", "kittens"))) == [
        "cat",
        "kittens",
        "cats",
        "cat",
    ]
    assert said(shared_gill, generation, Concept("Horse")) == ["horse"]
    target = text_target(shared_gill, generation, Concept("cat", ("cats", "kitten", "catz")))
    ids = shared_gill.tokenizer.convert_tokens_to_ids(["cat", "cats", "kitten"])
    assert target.form_ids == frozenset(ids)
    assert target.positions[0] == generation.spans.answer.start


def test_all_pieces_of_a_form_count_and_parts_of_words_do_not(pieces: Any) -> None:
    generation = generation_of(pieces.tokenizer, "a", " a horse, the HORSE sat; horses, carcass, cat")
    tokens = said(pieces, generation, Concept("horse"))
    assert tokens[0] == " horse"
    # The space before it is a token of its own here, and says nothing yet.
    assert "".join(tokens) == " horseHORSE"
    assert len(tokens) > 3
    assert "".join(said(pieces, generation, Concept("horse", ("horses",)))) == " horseHORSE horses"
    assert said(pieces, generation, Concept("cat")) == [" cat"]
    with pytest.raises(TargetError, match=r"'car' is not in the answer"):
        text_target(pieces, generation, Concept("car"))
    # Pieces of spellings that were not produced ("CAT" is three letters) do not open the gate of eq. 7.
    single = {pieces.tokenizer.decode([t]) for t in text_target(pieces, generation, Concept("cat")).form_ids}
    assert " cat" in single
    assert all(piece.strip().lower() == "cat" for piece in single)


def test_two_words_and_letters_beyond_ascii(pieces: Any) -> None:
    generation = generation_of(pieces.tokenizer, "a", " a naïve café, the red car")
    assert "".join(said(pieces, generation, Concept("red car"))) == "red car"
    target = text_target(pieces, generation, Concept("café"))
    assert pieces.tokenizer.decode(list(target.token_ids)).strip() == "café"


def test_what_cannot_be_a_target_is_named(shared_gill: GILL) -> None:
    generation = generation_of(shared_gill.tokenizer, "a cat .", "a dog")
    with pytest.raises(TargetError, match="'cat' is not in the answer; looked for cat, cats"):
        text_target(shared_gill, generation, Concept("cat", ("cats",)))
    with pytest.raises(TargetError, match="cannot spell any of: zebra, quagga"):
        text_target(shared_gill, generation, Concept("zebra", ("quagga",)))
    relevance = RelevanceMap(values=torch.rand(8, 32), signed=False, cost=0.0)
    with pytest.raises(TargetError, match=r"'a dog' has no \[IMG\] tokens"):
        image_target(generation, relevance)


def test_a_region_has_a_direction_for_each_img_position(shared_gill: GILL) -> None:
    generation = shared_gill.generate(prompt="a dog", draw=True, max_new_tokens=2, steps=1)
    relevance = RelevanceMap(values=torch.rand(8, 32), signed=False, cost=1.0)
    target = image_target(generation, relevance)
    assert target.positions == tuple(generation.spans.img)
    assert torch.equal(target.directions, relevance.values)
    assert (target.modality, target.signed, target.token_ids) == ("image", False, ())
    assert image_target(generation, replace(relevance, signed=True)).signed
    with pytest.raises(TargetError, match=r"each of 8 \[IMG\] positions, got \(7, 32\)"):
        image_target(generation, replace(relevance, values=relevance.values[:7]))
    with pytest.raises(TargetError, match="not finite"):
        image_target(generation, replace(relevance, values=relevance.values / 0))
