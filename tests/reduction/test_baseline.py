"""Mean activations over the reference set against a plain loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from nam.data.prompts import ScenePrompts
from nam.errors import InputError
from nam.mllm.gill import GILL
from nam.reduction import baseline
from nam.reduction.ablation import Ablation
from nam.reduction.base import contexts_of
from nam.reduction.baseline import REFERENCE, mean_activations
from nam.reduction.ig import IntegratedGradients
from nam.reduction.nam_total import NamTotal
from nam.types import Modality
from tests.reduction.cases import targets_of

FEW = ScenePrompts(concepts=("cat", "sun"), draw=5, draw_two=2, draw_riddle=1, riddle=1, caption=0)


@pytest.fixture(autouse=True)
def few_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baseline, "REFERENCE", FEW)


def by_loop(mllm: GILL, modality: Modality) -> Tensor:
    """One prompt after the other, read by plain hooks in the model's own forward pass."""
    total, count = torch.zeros(2, 64, dtype=torch.float64), 0
    for index in range(len(FEW)):
        found = mllm.generate(FEW[index].sample.prompt, draw=False)
        seen: list[Tensor] = []

        def keep(module: Any, given: tuple[Tensor], out: Tensor, *, seen: list[Tensor] = seen) -> None:
            seen.append(given[0])

        handles = [site.linear.register_forward_hook(keep) for site in mllm.ffn_sites]
        mllm.language_model(torch.tensor([found.token_ids]))
        for handle in handles:
            handle.remove()
        span = found.spans.img if modality == "image" else found.spans.answer
        first = span.start - (modality == "text")
        for layer, values in enumerate(seen):
            total[layer] += values.reshape(-1, 64)[first : span.stop].double().sum(0)
        count += len(range(first, span.stop))
    return total / count


@pytest.mark.parametrize("modality", ["text", "image"])
def test_means_are_a_plain_loop_s(gill: GILL, modality: Modality) -> None:
    found = mean_activations(gill, modality=modality)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), by_loop(gill, modality), atol=1e-5, rtol=1e-4)


def test_means_are_found_once_and_again_when_a_weight_changes(gill: GILL) -> None:
    with torch.inference_mode():
        found = mean_activations(gill)
    assert mean_activations(gill) is found
    assert not found.is_inference()
    assert not torch.equal(mean_activations(gill, modality="image"), found)
    with torch.no_grad():
        gill.language_model.get_decoder().layers[0].fc1.weight.mul_(2)
    assert not torch.allclose(mean_activations(gill), found)


def test_a_model_that_never_draws_has_no_mean_for_pictures(gill: GILL) -> None:
    with torch.no_grad():
        gill.unembedding[gill.codec.img_ids[0]] = 0
    with pytest.raises(InputError, match=r"announces no picture .* there is no mean to compare with$"):
        mean_activations(gill, modality="image")


@pytest.mark.parametrize("method", [Ablation, IntegratedGradients, NamTotal])
def test_a_method_without_a_mean_names_its_own_option(gill: GILL, method: Any) -> None:
    generation = gill.generate("a cat", draw=True, max_new_tokens=4, steps=1)
    context = contexts_of(gill, [generation], targets_of(gill, [generation], "image"))[0]
    with torch.no_grad():
        gill.unembedding[gill.codec.img_ids[0]] = 0
    message = rf"no mean to compare with: set reduction\.{method.name}\.baseline=zero$"
    with pytest.raises(InputError, match=message):
        method(baseline="mean").score(context)


def test_the_reference_set_is_apart_from_what_runs_ask() -> None:
    """Its combinations of thing, colour and place are those of training, runs ask the held-out ones."""
    assert REFERENCE.split == "train"
    assert REFERENCE.seed != ScenePrompts().seed
