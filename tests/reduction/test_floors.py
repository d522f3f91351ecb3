"""Chance: what is random follows from the answer and a seed, and keeps what it should."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nam.mllm.gill import GILL
from nam.reduction.acu import AcU
from nam.reduction.base import Context, Method, contexts_of
from nam.reduction.ce import CausalEffect
from nam.reduction.gradxact import GradXAct
from nam.reduction.random import Random
from nam.reduction.random_same_layer import RandomSameLayer
from nam.types import Generation, Modality
from tests.families import FAMILIES, answers, build
from tests.reduction.cases import targets_of


@pytest.fixture(scope="module", params=FAMILIES)
def mllm(request: pytest.FixtureRequest, gill_folder: Path) -> GILL:
    return build(request.param, gill_folder)


@pytest.fixture(scope="module")
def generations(mllm: GILL) -> list[Generation]:
    return answers(mllm)


def contexts(mllm: GILL, generations: list[Generation], modality: Modality) -> list[Context]:
    return contexts_of(mllm, generations, targets_of(mllm, generations, modality))


@pytest.mark.parametrize("method", [Random(), RandomSameLayer(of="acu"), CausalEffect()])
def test_chance_follows_from_the_answer_the_target_and_the_seed(
    mllm: GILL, generations: list[Generation], method: Any
) -> None:
    given = contexts(mllm, generations, "text")
    found = method.score_batch(given) + method.score_batch(contexts(mllm, generations, "image"))
    torch.testing.assert_close(replace(method, seed=0).score(given[0]), found[0], atol=1e-5, rtol=1e-4)
    reseeded = replace(given[0], generation=replace(given[0].generation, seed=1))
    found += [replace(method, seed=1).score(given[0]), method.score(reseeded)]
    for index, one in enumerate(found):
        assert not any(torch.allclose(one, other) for other in found[index + 1 :])


def test_another_picture_that_was_asked_about_is_another_chance(
    mllm: GILL, generations: list[Generation]
) -> None:
    context = contexts(mllm, generations, "text")[1]
    pixels = generations[3].input_pixels
    assert pixels is not None
    assert not torch.equal(pixels, generations[1].input_pixels)  # type: ignore[arg-type]
    other = replace(context, generation=replace(context.generation, input_pixels=pixels))
    assert not torch.allclose(Random().score(context), Random().score(other))


def test_noise_is_standard_normal_in_every_layer(mllm: GILL, generations: list[Generation]) -> None:
    context = contexts(mllm, generations, "text")[0]
    scores = torch.stack([Random(seed=seed).score(context) for seed in range(20)])
    assert float(scores.mean((0, 2)).abs().max()) < 0.15
    assert float((scores.std((0, 2)) - 1).abs().max()) < 0.1


@pytest.mark.parametrize(("of", "other"), [("acu", AcU()), ("gradxact", GradXAct())])
@pytest.mark.parametrize("modality", ["text", "image"])
def test_scores_dealt_out_anew_keep_every_top_s_layers_and_no_neuron(
    mllm: GILL, generations: list[Generation], modality: Modality, of: str, other: Method
) -> None:
    method = RandomSameLayer(of=of)
    assert method.needs == other.needs
    context = contexts(mllm, generations, modality)[0]
    expected, found = other.score(context), method.score(context)
    assert torch.equal(found.sort(dim=1).values, expected.sort(dim=1).values)
    assert int((found == expected).sum()) < expected.numel() / 2
    # The layers are dealt out independently: not all by one order.
    places = [
        tuple(layer.eq(value).nonzero()[0].item() for value in row.unique()[-5:])
        for layer, row in zip(found, expected, strict=True)
    ]
    origins = [tuple(row.eq(value).nonzero()[0].item() for value in row.unique()[-5:]) for row in expected]
    assert len(set(places)) > 1
    assert places != origins
