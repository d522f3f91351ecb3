"""Edits that grow: until every seed has turned, or nothing more comes; and the norms that methods needed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from nam.data.words import WordPairs
from nam.errors import ConfigError, InputError
from nam.evaluate import growth
from nam.evaluate.growth import Growth, grow
from nam.evaluate.leaderboard.base import Bench, silent
from nam.evaluate.leaderboard.norms import EditNorms
from nam.mllm.gill import GILL
from nam.types import Concept, Neuron
from tests.editor.problems import NEURONS, problem


def test_an_edit_grows_until_every_seed_has_turned(shared_gill: GILL) -> None:
    before = {name: value.clone() for name, value in shared_gill.language_model.state_dict().items()}
    seen: list[float] = []

    def evidence() -> np.ndarray:
        # Of two seeds, the first turns at the second budget, the other at the third.
        seen.append(len(seen))
        return np.array([-1.5, -2.5]) + len(seen) - 1

    grown = grow(problem(shared_gill), NEURONS, evidence, budgets=[0.01, 0.02, 0.04, 0.08])
    assert grown.budgets == pytest.approx((0.01, 0.02, 0.04), rel=0.4)
    assert max(grown.budgets) <= 0.04 + 1e-6
    np.testing.assert_allclose(grown.evidence, [[-1.5, -2.5], [-0.5, -1.5], [0.5, -0.5], [1.5, 0.5]])
    middle = [(grown.budgets[i] + grown.budgets[i + 1]) / 2 for i in (0, 1)]
    assert grown.norms == pytest.approx(middle)
    assert float(grown.change.norm()) == pytest.approx(grown.budgets[-1])
    after = shared_gill.language_model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_edit_ends_where_nothing_more_comes(shared_gill: GILL, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = torch.ones(len(NEURONS), 32)
    monkeypatch.setattr(growth, "within", lambda problem, neurons, change, budget: whole * min(budget, 2.0))
    grown = grow(problem(shared_gill), NEURONS, lambda: np.array([-1.0]), budgets=[1.0, 2.0, 3.0, 4.0])
    assert len(grown.budgets) == 3  # the third is as large as the second
    assert grown.norms == [None]


def test_figures_are_the_mean_norm_of_the_seeds_that_turned() -> None:
    part = EditNorms(edits=[["cat", "dog"]], seeds=3)
    evidence = np.array([[-1.0, -1.0, -1.0], [1.0, -1.0, -0.5], [3.0, -1.0, 0.5]])
    found = part.figures("cat", "dog", "nam", Growth((2.0, 4.0), evidence, torch.zeros(1, 1)))
    values = {one.measure: one.value for one in found}
    assert values == pytest.approx({"turned": 2 / 3, "norm[cat to dog]": (1.0 + 3.0) / 2})
    assert {(one.unit, one.group, one.modality, one.region) for one in found} == {
        ("cat to dog", "cat", "image", "-")
    }
    never = part.figures("cat", "dog", "nam", Growth((2.0,), -np.ones((2, 3)), torch.zeros(1, 1)))
    assert [(one.measure, one.value) for one in never] == [("turned", 0.0)]


def bench_of(mllm: Any, scores: dict[str, list[np.ndarray]]) -> Bench:
    cases = [
        SimpleNamespace(
            concept=Concept("cat"), modality="image", own=lambda method, place=place: scores[method][place]
        )
        for place in range(2)
    ]
    attributor = SimpleNamespace(mllm=mllm, methods=dict.fromkeys(scores), max_new_tokens=8)
    found = SimpleNamespace(
        mllm=mllm, attributor=attributor, of=lambda modality: cases, tell=silent, cases=cases
    )
    return cast(Bench, found)


def test_neurons_are_the_best_by_their_mean_score() -> None:
    scores = [np.zeros((2, 4), np.float32), np.zeros((2, 4), np.float32)]
    scores[0][0, 1], scores[1][0, 1], scores[0][1, 2], scores[1][1, 3] = 2, 2, 3.9, 1
    part = EditNorms(edits=[["cat", "dog"]], k=2)
    assert part.neurons(bench_of(None, {"nam": scores}), "nam", "cat").neurons == (Neuron(0, 1), Neuron(1, 2))


def test_evidence_is_how_much_better_clip_likes_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over two requests of three seeds; a picture that was not drawn counts for nothing."""
    part = EditNorms(
        edits=[["cat", "dog"]],
        requests=2,
        seeds=3,
        batch=4,
        prompts=WordPairs(held_out_prompts=("one {concept}", "two {concept}")),
    )
    asked: list[str] = []

    def generate_batch(samples: Any, *, draw: bool) -> list[Any]:
        assert draw is True
        asked.extend(sample.prompt for sample in samples)
        return [
            SimpleNamespace(image=None if sample.id == "cat-held-1-2" else sample.id) for sample in samples
        ]

    def clip(texts: list[str], pictures: list[str]) -> torch.Tensor:
        assert texts == ["a picture of a dog", "a picture of a cat"]
        _, _, prompt, seed = pictures[0].split("-")
        return torch.tensor([0.5 + int(prompt) + 10 * int(seed), 0.25])

    bench = bench_of(SimpleNamespace(generate_batch=generate_batch), {"nam": []})
    found = part.evidence(bench, cast(Any, clip), "cat", "dog")
    assert asked == ["one cat"] * 3 + ["two cat"] * 3
    np.testing.assert_allclose(found, [0.75, 10.75, 20.25])


def test_every_method_is_edited_by_the_same_rule(
    shared_gill: GILL, gill_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    shape = (len(shared_gill.ffn_sites), shared_gill.ffn_sites[0].width)
    scores = {name: [rng.normal(size=shape).astype(np.float32) for _ in range(2)] for name in ("nam", "act")}
    part = EditNorms(edits=[["cat", "dog"]], k=6, steps=2, seeds=2, clip=str(gill_folder), least=0.01)
    monkeypatch.setattr(EditNorms, "problem", lambda self, bench, source, target: problem(shared_gill))
    figures = part.measure(bench_of(shared_gill, scores))
    assert {one.method for one in figures} == {"nam", "act"}
    assert {one.measure for one in figures} >= {"turned"}
    with pytest.raises(InputError, match=r"no picture of 'horse' could be attributed.*there are cat"):
        EditNorms(edits=[["horse", "dog"]]).measure(bench_of(shared_gill, scores))


def test_what_is_no_edit_is_refused() -> None:
    for settings, message in (
        ({"edits": []}, "are pairs"),
        ({"edits": [["cat"]]}, "are pairs"),
        ({"seeds": 0}, r"norms\.seeds must be an integer of at least 1, got 0"),
        ({"least": 0.0}, r"norms\.least must be above 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            EditNorms(**{"edits": [["cat", "dog"]], **settings})
