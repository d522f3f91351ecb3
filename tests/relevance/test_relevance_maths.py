"""The formula of the relevance, worked out by hand."""

from __future__ import annotations

import pytest
import torch

from nam.errors import ConfigError
from nam.relevance.base import Aggregate, RelevanceError, relevance_of
from nam.relevance.gradient import GradientRelevance

HIDDEN = torch.tensor([[1.0, -2.0, 3.0], [2.0, 2.0, 0.0]])
GRADIENT = torch.tensor([[1.0, 1.0, -2.0], [-1.0, 2.0, 5.0]])
# |h g| is [[1, 2, 6], [2, 4, 0]]


@pytest.mark.parametrize(
    ("aggregate", "expected"),
    [
        ("none", [[0.0, 0.2, 1.0], [0.5, 1.0, 0.0]]),
        ("mean", [[0.0, 1.0, 1.0], [0.0, 1.0, 1.0]]),  # [1.5, 3, 3]
        ("sum", [[0.0, 1.0, 1.0], [0.0, 1.0, 1.0]]),
        ("max", [[0.0, 0.5, 1.0], [0.0, 0.5, 1.0]]),  # [2, 4, 6]
    ],
)
def test_the_papers_relevance_is_scaled_products(aggregate: Aggregate, expected: list[list[float]]) -> None:
    found = relevance_of(HIDDEN, GRADIENT, aggregate=aggregate)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor(expected))
    # neither the sign nor the size of the gradient is left in it
    torch.testing.assert_close(relevance_of(HIDDEN, -1e-30 * GRADIENT, aggregate=aggregate), found)


@pytest.mark.parametrize(
    ("aggregate", "expected"),
    [
        ("none", [[1.0, 1.0, -2.0], [-1.0, 2.0, 5.0]]),
        ("mean", [[0.0, 1.5, 1.5], [0.0, 1.5, 1.5]]),
        ("sum", [[0.0, 3.0, 3.0], [0.0, 3.0, 3.0]]),
    ],
)
def test_the_signed_relevance_is_the_gradient(aggregate: Aggregate, expected: list[list[float]]) -> None:
    found = relevance_of(HIDDEN, GRADIENT, signed=True, aggregate=aggregate)
    torch.testing.assert_close(found, torch.tensor(expected))


@pytest.mark.parametrize("signed", [False, True])
def test_what_has_no_relevance_is_an_error(signed: bool) -> None:
    with pytest.raises(RelevanceError, match="does not depend on the hidden state"):
        relevance_of(HIDDEN, torch.zeros(2, 3), signed=signed)
    one_flat = torch.stack([GRADIENT[0], torch.zeros(3)])
    with pytest.raises(RelevanceError, match="does not depend on the hidden state"):
        relevance_of(HIDDEN, one_flat, signed=signed)
    assert relevance_of(HIDDEN, one_flat, signed=signed, aggregate="mean").isfinite().all()
    for bad in (torch.nan, torch.inf):
        with pytest.raises(RelevanceError, match="not finite"):
            relevance_of(HIDDEN, torch.tensor([[1.0, bad, 2.0], [1.0, 2.0, 3.0]]), signed=signed)


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"relevance\.aggregate=max has no meaning for signed=true"):
        GradientRelevance(signed=True, aggregate="max")
    with pytest.raises(
        ConfigError, match=r"relevance\.aggregate must be 'none', 'mean', 'max' or 'sum', got 'median'"
    ):
        GradientRelevance(aggregate="median")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"relevance\.last_steps must be at least 1, or null, got 0"):
        GradientRelevance(last_steps=0)
