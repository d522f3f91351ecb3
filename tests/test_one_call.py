"""The one call, `nam.attribute`: its table of neurons, and what it refuses."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import nam
from nam.errors import ConfigError, InputError, TargetError
from nam.mllm.gill import GILL
from nam.reduction.nam import Nam
from nam.segmenter.whole import WholeSegmenter


def test_the_top_neurons_are_a_table(shared_gill: GILL) -> None:
    out = shared_gill.generate("a cat", draw=True, max_new_tokens=8, steps=1)
    found = nam.attribute(shared_gill, out, concept="cat", segmenter="none", reduction=Nam(norm="fold"))
    assert found.scores.shape == found.activations.shape == (2, 64)
    assert found.scores.dtype == torch.float32
    table = found.top(10)
    assert list(table.columns) == ["layer", "unit", "score", "activation", "words"]
    assert table["score"].is_monotonic_decreasing
    assert table["score"][0] == found.scores.max().item()
    assert found.scores[table["layer"][3], table["unit"][3]].item() == table["score"][3]
    assert len(table["words"][0].split(", ")) == 5
    half = np.zeros((64, 64), dtype=np.bool_)
    half[:, :32] = True
    given = nam.attribute(shared_gill, out, concept="cat", mask=half)
    assert given.mask is not None
    assert not torch.equal(given.scores, found.scores)


def test_the_one_call_says_what_is_wrong(shared_gill: GILL) -> None:
    said = shared_gill.generate("a cat", draw=False, max_new_tokens=4)
    drawn = shared_gill.generate("a cat", draw=True, max_new_tokens=4, steps=1)
    with pytest.raises(TargetError, match="nothing was drawn"):
        nam.attribute(shared_gill, said, concept="horse")
    with pytest.raises(TargetError, match="the mask is empty"):
        nam.attribute(shared_gill, drawn, concept="horse", mask=np.zeros((64, 64), dtype=np.bool_))
    with pytest.raises(TargetError, match="not in the answer"):
        nam.attribute(shared_gill, said, concept="moonlight", modality="text")
    with pytest.raises(InputError, match="modality must be"):
        nam.attribute(shared_gill, said, concept="horse", modality="sound")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="reduction=namm: no such option; did you mean 'nam'"):
        nam.attribute(shared_gill, said, concept="horse", modality="text", reduction="namm")
    bad = WholeSegmenter()
    hidden = replace(drawn, hidden=torch.full_like(drawn.hidden, float("nan")))  # type: ignore[arg-type]
    with pytest.raises(nam.NamError, match="not finite"):
        nam.attribute(shared_gill, hidden, concept="horse", segmenter=bad)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mllm": "tiny_gill"}, "InputError: mllm: expected a model, as nam.load gives it, got 'tiny_gill'"),
        ({"generation": []}, "InputError: generation: expected one answer, .* got list"),
        ({"concept": 3}, "InputError: concept: expected a word such as 'horse', .* got 3"),
        ({"reduction": 3}, "ConfigError: reduction: expected one name .* or an instance of Method, got 3"),
        ({"reduction": None}, "ConfigError: reduction: .* got None"),
        ({"reduction": ["nam", 3]}, "ConfigError: reduction: .* got list"),
        ({"reduction": Nam}, "ConfigError: reduction: .* got the class Nam"),
        ({"relevance": 3}, "ConfigError: relevance: expected one name .* or an instance of Relevance, got 3"),
        ({"relevance": Nam(), "modality": "text"}, "ConfigError: relevance: .* got Nam"),
        ({"segmenter": 3}, "ConfigError: segmenter: expected one name .* or an instance of Segmenter, got 3"),
        ({"segmenter": "scene"}, "ConfigError: segmenter=scene: no such option; did you mean 'scenes'"),
        ({"modality": ["text"]}, r"InputError: modality must be .* got \['text'\]"),
        ({"mask": [[True]]}, r"InputError: mask: expected a bool array \(H, W\), got list"),
        ({"mask": np.ones((64, 64))}, r"InputError: mask: .*size \(64, 64\), .* got float64 of shape"),
        ({"mask": np.ones((64, 32), bool)}, r"InputError: mask: .* got bool of shape \(64, 32\)"),
    ],
)  # fmt: skip
def test_arguments_of_a_wrong_type_are_named(
    shared_gill: GILL, arguments: dict[str, Any], message: str
) -> None:
    out = shared_gill.generate("a cat", draw=True, max_new_tokens=4, steps=1)
    given = {"mllm": shared_gill, "generation": out, "concept": "horse", **arguments}
    with pytest.raises(nam.NamError) as caught:
        nam.attribute(given.pop("mllm"), given.pop("generation"), **given)
    assert re.match(message, f"{type(caught.value).__name__}: {caught.value}")


def test_a_mask_may_be_a_view_that_runs_backwards(shared_gill: GILL) -> None:
    out = shared_gill.generate("a cat", draw=True, max_new_tokens=4, steps=1)
    mask = np.zeros((64, 64), dtype=np.bool_)
    mask[:20, 5:40] = True
    turned = nam.attribute(shared_gill, out, concept="horse", mask=mask[::-1, ::-1])
    same = nam.attribute(shared_gill, out, concept="horse", mask=np.flip(mask).copy())
    assert torch.equal(turned.scores, same.scores)
    again = nam.attribute(shared_gill, out, concept="horse", mask=turned.mask)
    assert torch.equal(turned.scores, again.scores)
    mask[:] = False
    assert turned.mask is not None
    assert not turned.mask.empty


@pytest.mark.parametrize("count", [1.5, -1, 0, "3", None, True])
def test_a_number_of_top_neurons_is_a_whole_one(shared_gill: GILL, count: Any) -> None:
    out = shared_gill.generate("a cat", draw=True, max_new_tokens=4, steps=1)
    found = nam.attribute(shared_gill, out, concept="horse", segmenter="none")
    assert len(found.top(np.int64(3))) == 3  # type: ignore[arg-type]
    with pytest.raises(InputError, match=f"count must be an integer of at least 1, got {count!r}"):
        found.top(count)
    with pytest.raises(InputError, match=f"words of a neuron must be .* got {count!r}"):
        found.top(3, words=count)
