"""Sums over samples, and over processes with different numbers of them."""

from __future__ import annotations

import pytest
import torch

from nam.errors import InputError
from nam.reduction.accumulator import Key, ScoreAccumulator
from nam.types import Concept, Modality, Scores

KEYS: list[Key] = [("cat", "text", "nam"), ("cat", "image", "nam"), ("dog", "text", "nam")]


def scores(seed: int, *, concept: str = "cat", modality: Modality = "text", width: int = 5) -> Scores:
    values = torch.randn(2, width, generator=torch.Generator().manual_seed(seed))
    return Scores(
        concept=Concept(concept), modality=modality, method="nam", scores=values, activations=values
    )


def test_sums_and_counts_per_key() -> None:
    found = ScoreAccumulator(keys=KEYS, layers=2, width=5)
    for given in (scores(0), scores(1), scores(2, modality="image")):
        found.update(given)
    result = found.compute()
    assert set(result) == set(KEYS[:2])
    total, count = result[KEYS[0]]
    assert count == 2
    torch.testing.assert_close(total, scores(0).scores.double() + scores(1).scores.double())
    found.reset()
    assert int(found.counts.sum()) == 0
    assert float(found.sums.abs().max()) == 0.0


def test_uneven_processes_add_up() -> None:
    one, two = (ScoreAccumulator(keys=KEYS, layers=2, width=5) for _ in range(2))
    whole = ScoreAccumulator(keys=KEYS, layers=2, width=5)
    for seed in range(5):
        (one if seed < 4 else two).update(scores(seed))
        whole.update(scores(4 - seed))
    reductions = one._reductions
    for name in ("sums", "counts"):
        # What torchmetrics does with the states that it gathers from the processes.
        gathered = torch.stack([getattr(one, name), getattr(two, name)])
        torch.testing.assert_close(reductions[name](gathered), getattr(whole, name))  # type: ignore[operator, misc]
    assert whole.compute()[KEYS[0]][1] == 5


def test_what_was_not_announced_is_refused() -> None:
    found = ScoreAccumulator(keys=KEYS, layers=2, width=5)
    with pytest.raises(InputError, match=r"dog/image/nam were not expected \(did you mean"):
        found.update(scores(0, concept="dog", modality="image"))
    with pytest.raises(InputError, match=r"expected scores of shape \(2, 5\), got \(2, 6\)"):
        found.update(scores(0, width=6))
