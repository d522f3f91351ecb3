"""Pictures of tokens are edited as words are, read by forward passes of the edited weights alone."""

from __future__ import annotations

import textwrap
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import nam
from nam.data.concepts import concept_of
from nam.data.edits import ScenePairs
from nam.editor.base import Goal
from nam.editor.cases import Pair
from nam.editor.delta import EditError
from nam.editor.finetune import Finetune
from nam.editor.reach import together
from nam.editor.rewrite import Rewrite
from nam.editor.token_cases import cases_of
from nam.evaluate.editing import ask
from nam.mllm.tiny_unified import read_tiny_unified
from nam.types import Neuron, NeuronSet, Sample
from tests.reduction.cases import a_word

FAMILIES = ("janus", "emu3", "chameleon")
WORDINGS = ("draw a {} .", "a {} at night .", "draw a red {} on the grass")
PAIRS = [
    Pair(*(Sample(f"{noun}-{n}", text.format(noun), seed=n) for noun in ("cat", "dog")))
    for n, text in enumerate(WORDINGS)
]
OTHERS = [Sample("horse", "draw a horse ."), Sample("tree", "what is this?")]


@cache
def made(family: str) -> Any:
    return read_tiny_unified(family=family)


def all_neurons(model: Any) -> NeuronSet:
    return NeuronSet.of(Neuron(site.layer, unit) for site in model.ffn_sites for unit in range(site.width))


def chances(model: Any, prompt: Sample, picture: Any) -> Tensor:
    """Log-probabilities (h * w, K) that a picture's tokens are drawn with behind a prompt, guidance included,
    by forward passes from the words and from what guidance reads."""
    ids, _ = model.drawing_prompt(prompt.prompt)
    tokens = picture.token_ids[-model.tokens_of_picture :]
    region = torch.ones(picture.image.height, picture.image.width, dtype=torch.bool)
    cells = model.picture_target(picture, region).positions
    given, free = (logits(model, [*one, *tokens], cells, len(one)) for one in (ids, model.free_ids(ids)))
    return (free + model.sampling.guidance * (given - free)).log_softmax(-1)


@torch.no_grad()
def logits(model: Any, ids: list[int], cells: tuple[int, ...], first: int) -> Tensor:
    """Logits (h * w, K) of the picture's tokens behind `first` others."""
    hidden = model._hidden(model.chat.collate([ids], [], side="right", like=model.unembedding))
    return model.code_logits(hidden[0, [first - 1 + cell - cells[0] for cell in cells]])


def apart(wanted: Tensor, found: Tensor) -> float:
    """KL in nats, a mean over tokens."""
    return float((wanted.exp() * (wanted - found)).sum(-1).mean())


#: What share of the distance between the tokens' chances each editor may leave on these random models.
EDITORS = {"finetune": (Finetune(steps=40, lr=0.1), 0.4), "rewrite": (Rewrite(), 0.9)}


@pytest.mark.parametrize("editor", EDITORS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_source_s_request_draws_what_the_target_s_draws(family: str, editor: str) -> None:
    model, (how, left) = made(family), EDITORS[editor]
    before = [tensor.clone() for tensor in model.parameters()]
    settings: dict[str, Any] = {"source": "cat", "target": "dog", "neurons": all_neurons(model)}
    delta = nam.edit(model, **settings, editor=how, pairs=PAIRS, others=OTHERS)
    targets = model.generate_batch([pair.target for pair in PAIRS], draw=True)
    (horse,) = model.generate_batch(OTHERS[:1], draw=True)
    wanted = [chances(model, pair.target, one) for pair, one in zip(PAIRS, targets, strict=True)]
    rows = list(zip(PAIRS, targets, wanted, strict=True))
    far = [apart(want, chances(model, pair.source, one)) for pair, one, want in rows]
    kept = chances(model, OTHERS[0], horse)
    with delta.applied(model):
        near = [apart(want, chances(model, pair.source, one)) for pair, one, want in rows]
        moved = apart(kept, chances(model, OTHERS[0], horse))
    assert sum(near) < left * sum(far)
    assert moved < 0.5 * sum(far) / len(far)
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))


def test_words_and_pictures_are_turned_together() -> None:
    """The words' cases are those of an edit of words; the pictures' come beside them."""
    model, goal = made("chameleon"), Goal(concept_of("cat"), concept_of("dog"), "both")
    says = Sample("says", "draw a cat ."), Sample("says", "draw a dog .")
    answers = model.generate_batch(says, draw=False)
    words = [a_word(one) for one in answers]
    goal = Goal(concept_of(words[0]), concept_of(words[1]), "both")
    both = cases_of(model, goal, [Pair(*says)], OTHERS)
    alone = cases_of(model, replace(goal, modality="text"), [Pair(*says)], OTHERS)
    (drawn,) = [case for case in both.cases if case.rows("image")]
    assert len(drawn.rows("image")) == len(drawn.generation.spans.img) == 17
    said = [case for case in both.cases if not len(case.generation.spans.img)]
    assert [case.generation.token_ids for case in said] == [case.generation.token_ids for case in alone.cases]
    assert [case.roles for case in said] == [case.roles for case in alone.cases]
    assert sum("text" in case.roles for case in said) == 1
    free, *kept = [case for case in both.cases if len(case.generation.spans.img) and not case.edited]
    assert free.generation.token_ids[:2] == (model.tokenizer.bos_token_id, model.begin_id)
    assert free.generation.token_ids[2:] == drawn.generation.token_ids[-16:]
    assert [case.generation.prompt for case in kept] == [one.prompt for one in OTHERS]
    assert (both.used, both.skipped) == (1, {})


def test_a_request_with_a_picture_is_no_request_to_draw() -> None:
    seen = np.zeros((32, 32, 3), dtype=np.uint8)
    pair = Pair(*(Sample(noun, "a picture of", image=seen) for noun in ("cat", "dog")))
    goal = Goal(concept_of("cat"), concept_of("dog"))
    with pytest.raises(EditError, match=r"no request to draw is given .* draws from words alone"):
        cases_of(made("janus"), goal, [pair], [])


def test_where_no_request_can_be_attributed_neurons_are_asked_for() -> None:
    """The segmenter of the scenes finds no cat in a random model's pictures."""
    words = r"none of 2 requests for cat .* \(image: the mask is empty: no cat .*\); give them as neurons="
    with pytest.raises(EditError, match=words):
        nam.edit(made("emu3"), source="cat", target="dog", k=5, pairs=PAIRS, others=OTHERS)


def test_requests_to_draw_are_judged_by_pictures_unless_words_alone_were_edited() -> None:
    prompts = ScenePairs()
    asked = [*prompts.held_out("cat", "draw", 2), *prompts.held_out("cat", "caption", 1)]
    counts: list[int] = []

    def judge(images: Any) -> list[Any]:
        counts.append(len(images))
        return [SimpleNamespace(things={"cat": ("red", 1.0)}, place=None) for _ in images]

    drawn = ask(made("emu3"), asked, judge)  # type: ignore[arg-type]
    assert [one.generation.image is not None for one in drawn] == [True, True, False]
    assert [one.drawn for one in drawn] == [{"cat"}, {"cat"}, frozenset()]
    said = ask(made("emu3"), asked, judge, words=True)  # type: ignore[arg-type]
    assert [(one.generation.image, bool(one.generation.text)) for one in said] == [(None, True)] * 3
    assert counts == [2]


def test_the_edit_of_the_documentation_runs() -> None:
    text = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    block = text.split("in Python, for any model:\n")[1].split("\nAn edit reads")[0]
    mask = np.zeros((32, 32), dtype=bool)
    mask[:16] = True
    names: dict[str, Any] = {"nam": nam, "mllm": made("chameleon"), "mask": mask}
    names["out"] = names["mllm"].generate("draw a cat .", draw=True)
    exec(compile(textwrap.dedent(block), "docs/models.md", "exec"), names)
    assert len(names["edit"].neurons) == 64
    assert names["edit"].manifest["reached"]["image_left"] < 0.8


def test_answers_are_read_together_up_to_a_number_of_positions() -> None:
    def parts(*lengths: int) -> list[tuple[int, int]]:
        return [(one.start, one.stop) for one in together([range(length) for length in lengths])]

    assert parts(*[8] * 130) == [(0, 64), (64, 128), (128, 130)]
    assert parts(1000, 1000, 1000, 5) == [(0, 2), (2, 4)]
    assert parts(5000, 5000, 3) == [(0, 1), (1, 2), (2, 3)]
    assert parts() == []
