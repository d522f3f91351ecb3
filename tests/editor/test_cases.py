"""What an edit is made on: the shipped model's own answers, and what should come out instead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

import nam
from nam.data.concepts import concept_of
from nam.data.edits import Asked, ScenePairs
from nam.editor import EditError
from nam.editor.base import NO_TOKEN, EditModality, Goal
from nam.editor.cases import Cases, Pair, build_cases
from nam.errors import ConfigError
from nam.mllm.base import MLLM

PROMPTS = ScenePairs(draw=2, caption=3, others=0, others_caption=0, others_riddle=1)


@pytest.fixture(scope="module")
def mllm() -> MLLM:
    return nam.load("tiny_gill")


def pairs(kind: str | None = None) -> list[Pair]:
    sides: tuple[Sequence[Asked], Sequence[Asked]] = PROMPTS.of("cat"), PROMPTS.of("dog", like="cat")
    both = zip(*sides, strict=True)
    return [Pair(one.sample, other.sample) for one, other in both if kind in (None, one.kind)]


def cases(mllm: MLLM, modality: EditModality, asked: list[Pair], **options: Any) -> Cases:
    goal = Goal(concept_of("cat"), concept_of("dog"), modality)
    return build_cases(mllm, goal, asked, [PROMPTS.kept("cat")[0].sample], **options)


def test_an_edit_of_pictures_keeps_what_is_said_of_pictures_of_the_source(mllm: MLLM) -> None:
    found = cases(mllm, "image", pairs())
    assert (found.used, found.skipped) == (2, {})
    drawn, rest = found.cases[:2], found.cases[2:]
    assert [case.generation.text.split()[-1] for case in drawn]  # both answer in words, too
    assert [case.edited for case in found.cases] == [True] * 2 + [False] * 4  # 3 captions and the riddle
    for case in rest[:3]:
        assert case.generation.input_pixels is not None
        assert "cat" in case.generation.text
        # Its words are to stay: the states that the model has there, and the very tokens that it says.
        replayed = mllm.replay([case.generation])
        logits = replayed.hidden[0].float()[list(case.positions)] @ mllm.unembedding.float().T
        assert case.tokens == tuple(logits.argmax(-1).tolist())
        assert case.tokens[:-1] == case.generation.answer_ids
    for case in drawn:
        words = len(case.generation.answer_ids) + 1
        assert case.roles == ("keep",) * words + ("image",) * 8
        assert case.tokens[words:] == (NO_TOKEN,) * 8


def test_an_edit_of_words_edits_what_is_said_of_pictures(mllm: MLLM) -> None:
    found = cases(mllm, "text", pairs("caption"), margin=2.0)
    assert (found.used, found.skipped) == (3, {})
    dog = mllm.tokenizer("dog", add_special_tokens=False)["input_ids"][0]
    for case in found.cases[:3]:
        (row,) = case.rows("text")
        assert case.tokens[row] == dog
        assert "image" not in case.roles
    kept = found.cases[3]
    assert not kept.edited
    assert torch.isfinite(kept.wanted).all()


def test_captions_alone_make_no_edit_of_pictures(mllm: MLLM) -> None:
    with pytest.raises(EditError, match="cat cannot be edited into dog: no request to draw is given"):
        cases(mllm, "image", pairs("caption"))
    with pytest.raises(EditError, match="no prompt is given"):
        cases(mllm, "text", [])


@pytest.mark.parametrize("margin", [float("nan"), float("inf"), -1.0])
def test_an_odd_margin_is_refused(mllm: MLLM, margin: float) -> None:
    with pytest.raises(ConfigError, match=r"edit.margin must be at least 0, and finite"):
        cases(mllm, "text", pairs(), margin=margin)
