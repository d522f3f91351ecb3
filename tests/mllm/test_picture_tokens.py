"""Which cells a region covers, and which token is drawn: against loops and transformers' own samplers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    ClassifierFreeGuidanceLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from nam.errors import ConfigError, TargetError
from nam.mllm.picture_tokens import Noise, Sampling, cells_of


def shares(region: Tensor, grid: tuple[int, int]) -> list[list[float]]:
    """The share of each cell's pixels that a region covers, pixel by pixel."""
    (height, width), (rows, columns) = region.shape, grid
    found = []
    for i in range(rows):
        top, bottom = i * height // rows, math.ceil((i + 1) * height / rows)
        line = []
        for j in range(columns):
            left, right = j * width // columns, math.ceil((j + 1) * width / columns)
            inside = sum(int(region[y, x]) for y in range(top, bottom) for x in range(left, right))
            line.append(inside / ((bottom - top) * (right - left)))
        found.append(line)
    return found


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 9999), st.integers(1, 5), st.integers(1, 5), st.sampled_from([(8, 8), (9, 7), (5, 12)]))
def test_cells_are_those_of_a_count_of_pixels(
    seed: int, rows: int, columns: int, size: tuple[int, int]
) -> None:
    generator = torch.Generator().manual_seed(seed)
    region = torch.rand(size, generator=generator) < torch.rand((), generator=generator)
    region[0, 0] = True
    expected = torch.tensor(shares(region, (rows, columns)), dtype=torch.float64)
    cells = cells_of(region, grid=(rows, columns))
    half = expected >= 0.5
    torch.testing.assert_close(cells, half if half.any() else expected == expected.max())
    assert cells.any()


def test_a_region_smaller_than_half_a_cell_counts_where_it_is() -> None:
    region = torch.zeros(32, 32, dtype=torch.bool)
    region[17:19, 9:11] = True
    assert cells_of(region, grid=(4, 4)).nonzero().tolist() == [[2, 1]]


@pytest.mark.parametrize(
    ("region", "message"),
    [
        (torch.zeros(4, 4, dtype=torch.bool), "the region is empty"),
        (torch.ones(4, 4), "expected a bool region"),
        (torch.ones(1, 4, 4, dtype=torch.bool), "expected a bool region"),
    ],
)
def test_what_is_no_region_is_refused(region: Tensor, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        cells_of(region, grid=(2, 2))


def test_cuts_are_those_of_transformers() -> None:
    logits = 3 * torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    ids = torch.zeros(5, 1, dtype=torch.long)
    warm = TemperatureLogitsWarper(0.7)(ids, logits)
    for top_k, top_p in ((7, None), (None, 0.9), (None, 0.01), (12, 0.6), (400, 1.0)):
        expected = warm if top_k is None else TopKLogitsWarper(top_k)(ids, warm)
        expected = expected if top_p is None else TopPLogitsWarper(top_p)(ids, expected)
        got = Sampling(temperature=0.7, top_k=top_k, top_p=top_p).cut(logits)
        torch.testing.assert_close(got, expected)


def test_guidance_is_that_of_transformers() -> None:
    logits = torch.randn(6, 30, generator=torch.Generator().manual_seed(1))
    flat = torch.ones(3, 30)
    guided = ClassifierFreeGuidanceLogitsProcessor(4.0)(torch.zeros(3, 1, dtype=torch.long), logits)
    assert Sampling(guidance=4.0).choose(logits, flat).tolist() == guided.argmax(-1).tolist()
    assert Sampling().choose(logits[:3], flat).tolist() == logits[:3].argmax(-1).tolist()
    assert guided.argmax(-1).tolist() != logits[:3].argmax(-1).tolist()


def test_draws_have_the_probabilities_of_the_softmax() -> None:
    logits, count = torch.tensor([1.0, 0.0, -1.0, 2.0, -9.0]), 40_000
    noise = Noise([3], size=count * len(logits)).next(torch.device("cpu")).view(count, -1)
    drawn = Sampling(temperature=1.5).choose(logits.expand(count, -1), noise).bincount(minlength=5)
    chances = (logits / 1.5).softmax(0)
    # Four standard deviations of a binomial.
    spread = 4 * (chances * (1 - chances) * count).sqrt()
    assert bool(((drawn - chances * count).abs() < spread + 1).all())


def test_noise_is_each_seeds_own() -> None:
    cpu = torch.device("cpu")
    many, one = Noise([7, 8, 7], size=6), Noise([8], size=6)
    first, second = many.next(cpu), many.next(cpu)
    assert torch.equal(first[1:2], one.next(cpu))
    assert torch.equal(second[1:2], one.next(cpu))
    assert torch.equal(first[0], first[2])
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guidance": 0.5}, "mllm.guidance must be at least 1"),
        ({"guidance": float("nan")}, "mllm.guidance"),
        ({"temperature": 0.0}, "mllm.temperature must be above 0"),
        ({"top_k": 0}, "mllm.top_k must be an integer of at least 1"),
        ({"top_p": 1.5}, "mllm.top_p must be above 0 and at most 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Sampling(**settings)  # type: ignore[arg-type]


def test_a_sampling_says_what_it_does() -> None:
    assert str(Sampling(guidance=3.0, top_k=2048)) == "tokens, temperature 1, top_k 2048"
    assert str(Sampling(temperature=0.7, top_p=0.9)) == "tokens, temperature 0.7, top_p 0.9"
