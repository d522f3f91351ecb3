"""Reading activations no more often, and no further, than the targets ask for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import nam
from nam.errors import ScoreError
from nam.hooks import Recorder
from nam.mllm.gill import GILL
from nam.reduction.acu import AcU
from nam.reduction.base import Method, contexts_of
from nam.reduction.contributions import contributions_at, contributions_of
from nam.reduction.gradxact import GradXAct
from nam.reduction.nam import Nam
from nam.types import Concept, Generation, Target
from tests.families import FAMILIES, answers, build
from tests.reduction.cases import a_word, targets_of


@pytest.fixture(scope="module", params=FAMILIES)
def mllm(request: pytest.FixtureRequest, gill_folder: Path) -> GILL:
    return build(request.param, gill_folder)


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The lengths of what each replay reads."""
    seen: list[list[int]] = []
    replay = GILL._replay

    def watched(self: GILL, generations: Sequence[Generation]) -> Any:
        seen.append([len(one.token_ids) for one in generations])
        return replay(self, generations)

    monkeypatch.setattr(GILL, "_replay", watched)
    return seen


def several(mllm: GILL) -> tuple[list[Generation], list[Target]]:
    """Targets of both modalities in two answers, three in the first."""
    first, second = answers(mllm)[:2]
    generations = [first, second, first, first]
    both = targets_of(mllm, [first, second], "text")
    other = nam.targets.text_target(mllm, first, Concept(a_word(first, index=0)))
    return generations, [*both, *targets_of(mllm, [first], "image"), other]


def assert_close(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> None:
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-4 * float(theirs.abs().max()))


def test_directions_that_come_again_share_a_product(mllm: GILL) -> None:
    """What each target's neurons add, against a product a target in float64."""
    generation = answers(mllm)[0]
    one, other = (
        nam.targets.text_target(mllm, generation, Concept(a_word(generation, index=i))) for i in (0, -1)
    )
    targets = [one, other, one, one, other, one]
    contexts = contexts_of(mllm, [generation] * len(targets), targets)
    found = contributions_of(contexts, [target.directions for target in targets])
    for context, scores in zip(contexts, found, strict=True):
        for layer, site in enumerate(mllm.ffn_sites):
            if site.straight:
                along = context.target.directions.double() @ site.value_vectors.detach().double()
                expected = context.activations[layer].double() * along
                torch.testing.assert_close(scores[layer].double(), expected, rtol=1e-4, atol=1e-5)


def test_an_answer_is_replayed_once_and_no_further_than_its_last_target(
    mllm: GILL, replays: list[list[int]]
) -> None:
    generations, targets = several(mllm)
    contexts = contexts_of(mllm, generations, targets)
    assert replays == [[len(generations[0].token_ids), targets[1].positions[-1] + 1]]
    assert replays[0][1] < len(generations[1].token_ids)
    whole = Recorder(mllm, where="all")
    mllm.replay(generations, record=whole)
    for context, recorded in zip(contexts, whole.recorded, strict=True):
        expected = recorded.at(context.target.positions)
        torch.testing.assert_close(context.activations, expected.activations, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(context.stream, expected.stream, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", [Nam(), Nam(gate="token"), Nam(aggregate="each"), AcU(), GradXAct()])
def test_several_targets_of_one_answer_do_not_see_one_another(mllm: GILL, method: Method) -> None:
    generations, targets = several(mllm)
    together = method.score_batch(contexts_of(mllm, generations, targets))
    alone = [
        method.score(contexts_of(mllm, [generation], [target])[0])
        for generation, target in zip(generations, targets, strict=True)
    ]
    assert_close(together, alone)


def test_a_method_that_runs_the_model_reads_activations_by_the_way(
    mllm: GILL, replays: list[list[int]]
) -> None:
    generations, targets = several(mllm)
    later = contexts_of(mllm, generations, targets, later=True)
    assert replays == []
    found = GradXAct(batch=2).score_batch(later)
    assert [len(lengths) for lengths in replays] == [2, 2]  # its own forward passes and no other
    expected = contexts_of(mllm, generations, targets)
    assert_close([one.activations for one in later], [one.activations for one in expected])
    assert_close(found, GradXAct().score_batch(expected))


def test_what_no_method_has_read_is_read_when_asked_for(mllm: GILL, replays: list[list[int]]) -> None:
    generations, targets = several(mllm)
    later = contexts_of(mllm, generations, targets, later=True)
    GradXAct().score(later[1])
    assert_close(AcU().score_batch(later), AcU().score_batch(contexts_of(mllm, generations, targets)))
    assert [len(lengths) for lengths in replays] == [1, 1, 2]
    assert all(context.reading.there for context in later)


def test_reading_later_works_in_inference_mode(mllm: GILL) -> None:
    generations, targets = several(mllm)
    with torch.inference_mode():
        later = contexts_of(mllm, generations, targets, later=True)
        assert not later[0].activations.is_inference()
    found = GradXAct().score_batch(later)
    assert_close(found, GradXAct().score_batch(contexts_of(mllm, generations, targets)))


def test_nan_that_a_method_reads_itself_is_an_error(mllm: GILL) -> None:
    generations, targets = several(mllm)
    later = contexts_of(mllm, generations, targets, later=True)

    def poison(module: Any, given: Any) -> Any:
        return (given[0].index_fill(-1, torch.tensor([7]), float("nan")),)

    handle = mllm.ffn_sites[1].linear.register_forward_pre_hook(poison)
    try:
        with pytest.raises(ScoreError, match="target 0: an activation is nan at layer 1, unit 7"):
            GradXAct().score_batch(later)
    finally:
        handle.remove()


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_contributions_of_chosen_neurons_are_those_of_all(mllm: GILL, share: float) -> None:
    generations, targets = several(mllm)
    contexts = contexts_of(mllm, generations, targets)
    directions = [context.directions(norm="ignore") for context in contexts]
    generator = torch.Generator().manual_seed(0)
    masks = [torch.rand(one.activations.shape, generator=generator) < share for one in contexts]
    everything = contributions_of(contexts, directions)
    expected = [values * mask for values, mask in zip(everything, masks, strict=True)]
    for mine, theirs in zip(contributions_at(contexts, directions, masks), expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


def test_an_answer_up_to_a_position(mllm: GILL) -> None:
    generation = answers(mllm)[1]
    start, stop = generation.spans.answer.start, len(generation.token_ids)
    for end in range(start, stop):
        part = generation.until(end)
        assert part.token_ids == generation.token_ids[:end]
        assert len(part.spans) == end
        assert part.spans.text == generation.spans.text
    assert generation.until(stop) is generation
    assert generation.until(start - 1) is generation
