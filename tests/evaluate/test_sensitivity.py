"""Semantic sensitivity against a loop over pairs and numpy's regression."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nam.errors import InputError
from nam.evaluate.sensitivity import activations_of, sensitivity
from nam.hooks import Recorder
from nam.mllm.gill import GILL
from nam.types import Neuron

NEURONS = [Neuron(1, 5), Neuron(0, 63), Neuron(1, 0)]


def scenes(count: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Activations of four neurons: of the thing, of its size, of nothing, and with many draws."""
    rng = np.random.default_rng(0)
    present = rng.random(count) < 0.4
    sizes = np.where(present, rng.uniform(0.05, 0.4, count), 0)
    noise = rng.normal(size=(4, count))
    columns = [
        30 + 9 * present + 4 * noise[0],
        500 * sizes + 20 * noise[1],
        noise[2],
        np.round(noise[3] + present),
    ]
    return np.stack(columns, axis=1).astype(np.float32), present, sizes


def test_auroc_is_the_share_of_pairs_in_order() -> None:
    values, present, sizes = scenes()
    found = sensitivity(values, present=present, sizes=sizes).auroc
    for column, auroc in zip(values.T, found, strict=True):
        wins = [float(a > b) + 0.5 * float(a == b) for a in column[present] for b in column[~present]]
        assert auroc == pytest.approx(sum(wins) / len(wins), abs=1e-6)
    assert found[0] > 0.85
    assert found[1] > 0.95


def test_auroc_knows_the_order_of_large_and_of_close_activations() -> None:
    present, sizes = np.array([True, True, False, False]), np.array([0.1, 0.2, 0, 0])
    values = np.array([[901.0, 1 + 1e-12], [900.5, 1 + 2e-12], [900.0, 1.0], [-900.0, 1.0]])
    assert sensitivity(values, present=present, sizes=sizes).auroc.tolist() == [1, 1]
    assert sensitivity(-values, present=present, sizes=sizes).auroc.tolist() == [0, 0]


def test_slope_is_the_regressions() -> None:
    values, present, sizes = scenes()
    found = sensitivity(values, present=present, sizes=sizes).slope
    for column, slope in zip(values.T.astype(np.float64), found, strict=True):
        by = sizes[present] / sizes[present].std()
        expected = np.polyfit(by, column[present] / column.std(), 1)[0]
        assert slope == pytest.approx(expected, rel=1e-6)


def test_a_neuron_that_never_changes_tells_nothing() -> None:
    _, present, sizes = scenes()
    found = sensitivity(np.full((60, 1), 3.0), present=present, sizes=sizes)
    assert found.auroc.tolist() == [0.5]
    assert np.isnan(found.slope).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"present": np.ones(60, bool)}, "60 of 60 have it"),
        ({"present": np.zeros(60, bool)}, "0 of 60 have it"),
        ({"present": np.ones(59, bool)}, r"\(60, 4\), \(59,\)"),
        ({"sizes": np.ones(60)}, "all have the same"),
        ({"sizes": np.full(60, np.nan)}, "NaN"),
    ],
)
def test_what_cannot_be_measured_is_refused(change: dict, said: str) -> None:
    values, present, sizes = scenes()
    with pytest.raises(InputError, match=said):
        sensitivity(values, **{"present": present, "sizes": sizes, **change})


def test_activations_are_means_over_a_part_of_each_sequence(shared_gill: GILL) -> None:
    prompts = ["draw a red horse .", "what says meow ?", "a picture of a cat and a dog by the sea ."]
    out = shared_gill.generate(prompts, max_new_tokens=6)
    for part, span in (("answer", "answer"), ("text", "text")):
        found = activations_of(shared_gill, out, NEURONS, positions=part)
        assert found.shape == (3, 3)
        for row, one in enumerate(out):
            recorder = Recorder(shared_gill, where="all")
            with torch.no_grad():
                shared_gill.replay([one], record=recorder)  # alone: no padding
            whole = recorder.recorded[0].activations
            at = list(getattr(one.spans, span))
            expected = [float(whole[n.layer, at, n.unit].mean()) for n in NEURONS]
            assert found[row].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert np.ptp(found) > 0
    asked = activations_of(shared_gill, out, NEURONS, positions="ask")
    assert asked[0].tolist() == pytest.approx(
        [float(v) for v in whole_at(shared_gill, out[0], out[0].spans.text.stop - 1)], rel=1e-4, abs=1e-5
    )
    with pytest.raises(InputError, match="no positions of its picture"):
        activations_of(shared_gill, out, NEURONS, positions="picture")
    with pytest.raises(InputError, match="got 'end'"):
        activations_of(shared_gill, out, NEURONS, positions="end")


def whole_at(mllm: GILL, generation, position: int) -> list[torch.Tensor]:
    """Activations at one position."""
    recorder = Recorder(mllm, where=[[position]])
    with torch.no_grad():
        mllm.replay([generation], record=recorder)
    return [recorder.recorded[0].activations[n.layer, 0, n.unit] for n in NEURONS]
