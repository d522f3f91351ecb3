"""Editors against float64 references and against the model with the weights really written."""

from __future__ import annotations

import itertools
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch

from nam.editing import _quiet
from nam.editor import EditError, difference
from nam.editor.base import Editor
from nam.editor.cases import streams_of, swap
from nam.editor.columns import Changed
from nam.editor.finetune import Finetune
from nam.editor.reach import Reached, reach
from nam.editor.rewrite import Rewrite
from nam.editor.rome import Rome
from nam.editor.scale import Scale
from nam.errors import ConfigError
from nam.mllm.gill import GILL
from nam.mllm.norm import read_final_norm
from nam.modules.editing import EditingModule
from tests.editor.problems import NEURONS, problem
from tests.editor.test_delta import assert_same_bits, weights
from tests.families import FAMILIES, answers, build

NAN, INF = float("nan"), float("inf")


def fit(
    module: EditingModule, folder: Path | None = None, *, steps: int, ckpt: Path | None = None
) -> L.Trainer:
    with _quiet():
        trainer = L.Trainer(
            accelerator="cpu",
            max_steps=steps,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, ckpt_path=ckpt, weights_only=True)
        if folder is not None:
            trainer.save_checkpoint(folder / "last.ckpt")
    return trainer


@pytest.mark.parametrize("family", FAMILIES)
def test_a_change_that_is_hooked_in_acts_like_one_that_is_written(family: str, gill_folder: Path) -> None:
    mllm = build(family, gill_folder)
    change = torch.randn(len(NEURONS), 32, generator=torch.Generator().manual_seed(0))
    generations = answers(mllm)
    with Changed(mllm, NEURONS, change):
        hooked = streams_of(mllm, generations)
    plain = streams_of(mllm, generations)
    with difference(mllm, NEURONS, change).applied(mllm):
        written = streams_of(mllm, generations)
    for one, other, before in zip(hooked, written, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
        assert (one - before).abs().max() > 0.1
    assert not any(site.linear._forward_hooks for site in mllm.ffn_sites)


@pytest.mark.parametrize("budget", [None, 0.05])
def test_rewrite_solves_its_least_squares(budget: float | None) -> None:
    rng = torch.Generator().manual_seed(0)
    rows, units, hidden = 30, 6, 5
    reached = Reached(
        torch.zeros(rows, hidden),
        torch.randn(rows, hidden, generator=rng),
        torch.rand(rows, 1, generator=rng) + 0.5,
        torch.tensor([0] * 8 + [1] * 4 + [2] * 18),
        torch.rand(rows, units, generator=rng),
    )
    editor = Rewrite(tau=0.1, keep=3.0, budget=budget)
    found = editor.solve(reached, torch.zeros(units, hidden)).double().numpy()
    if budget is not None:
        assert 0.5 * budget < np.linalg.norm(found) <= budget
        return
    # The same as one tall least squares, with the ridge as rows of its own.
    weight = np.array([1 / 12] * 12 + [3.0 / 18] * 18)
    scaled = reached.activations.double().numpy() / reached.scale.double().numpy()
    aim = reached.wanted.double().numpy() / reached.scale.double().numpy()
    ridge = 0.1 * float((weight[:, None] * scaled**2).sum()) / units
    tall = np.vstack([np.sqrt(weight)[:, None] * scaled, np.sqrt(ridge) * np.eye(units)])
    right = np.vstack([np.sqrt(weight)[:, None] * aim, np.zeros((units, hidden))])
    expected = np.linalg.lstsq(tall, right, rcond=None)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_rewrite_goes_on_from_where_the_model_stands() -> None:
    """In a model where the direct path is all, a second step from the first one's result changes nothing."""
    rng = torch.Generator().manual_seed(1)
    activations, wanted = torch.rand(20, 4, generator=rng), torch.randn(20, 3, generator=rng)
    scale, roles = torch.ones(20, 1), torch.tensor([0] * 10 + [2] * 10)
    editor = Rewrite(tau=0.05)
    first = editor.solve(Reached(torch.zeros(20, 3), wanted, scale, roles, activations), torch.zeros(4, 3))
    second = editor.solve(Reached(activations @ first, wanted, scale, roles, activations), first)
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)


def test_rewrite_comes_closer_with_every_step_and_stops(gill: GILL) -> None:
    asked = problem(gill)
    before = weights(gill)
    editor = Rewrite(steps=6, tau=1e-4, keep=0.5, tolerance=0.0)
    change, objectives = torch.zeros(len(NEURONS), 32), []
    here = reach(asked, NEURONS, change)
    for _ in range(4):
        objectives.append(editor.objective(here, change))
        change, here = editor.propose(asked, NEURONS, change, here)
    assert all(later <= earlier for earlier, later in itertools.pairwise(objectives))
    assert objectives[-1] < 0.7 * objectives[0]
    module = EditingModule(problem=asked, editor=editor, neurons=NEURONS)
    fit(module, steps=6)
    assert module.reached["image_left"] < 0.9
    assert_same_bits(gill, before)


@pytest.mark.parametrize(
    "editor", [Rewrite(steps=2), Finetune(steps=2, batch=4), Scale(), Rome(steps=2)], ids=lambda e: e.name
)
def test_every_editor_runs_and_leaves_the_model_alone(editor: Editor, gill: GILL) -> None:
    asked = problem(gill)
    before = weights(gill)
    neurons = editor.neurons(asked, NEURONS)
    module = EditingModule(problem=asked, editor=editor, neurons=neurons)
    fit(module, steps=editor.steps)
    assert_same_bits(gill, before)
    assert not any(site.linear._forward_hooks for site in gill.ffn_sites)
    assert float(module.found.norm()) > 0
    assert module.reached["norm"] == pytest.approx(float(module.found.norm()), rel=1e-5)
    delta = difference(gill, neurons, module.found)
    with delta.applied(gill):
        assert float(reach(asked, neurons, torch.zeros_like(module.found)).stream.isfinite().all())
    assert_same_bits(gill, before)


def test_scale_multiplies(gill: GILL) -> None:
    module = EditingModule(problem=problem(gill), editor=Scale(factor=0.25), neurons=NEURONS)
    fit(module, steps=1)
    delta = difference(gill, NEURONS, module.found)
    torch.testing.assert_close(delta.edited, 0.25 * delta.original, rtol=1e-5, atol=1e-6)


def test_rome_is_of_rank_one_and_gives_the_mean_key_what_is_missing(gill: GILL) -> None:
    asked = problem(gill)
    editor = Rome(layer=1, steps=1)
    neurons = editor.neurons(asked, NEURONS)
    assert len(neurons) == gill.ffn_sites[1].width
    change = torch.zeros(len(neurons), 32)
    here = reach(asked, neurons, change)
    there, _ = editor.propose(asked, neurons, change, here)
    singular = torch.linalg.svdvals(there.double())
    assert singular[1] < 1e-5 * singular[0]
    edited = here.roles != 2
    got = here.activations[edited].mean(0) @ there
    missing = (here.wanted - here.stream)[edited].mean(0)
    torch.testing.assert_close(got, missing, rtol=1e-3, atol=1e-4)
    keys, kept = (here.activations.double().numpy()[rows] for rows in (edited.numpy(), ~edited.numpy()))
    second = kept.T @ kept / len(kept)
    damped = second + editor.damping * np.diag(second).mean() * np.eye(len(second))
    direction = np.linalg.solve(damped, keys.mean(0))
    expected = np.outer(direction / (keys.mean(0) @ direction), missing.numpy())
    np.testing.assert_allclose(there.numpy(), expected, rtol=1e-3, atol=1e-4)


def test_finetuning_learns_and_a_resumed_run_ends_the_same(gill: GILL, tmp_path: Path) -> None:
    asked = problem(gill)

    def new(steps: int) -> EditingModule:
        editor = Finetune(steps=steps, batch=2, lr=0.05, tolerance=0.0, keep=0.1)
        return EditingModule(problem=asked, editor=editor, neurons=NEURONS, seed=3)

    whole = new(20)
    fit(whole, steps=20)
    assert whole.reached["image_left"] < 0.8
    first = new(20)
    fit(first, tmp_path, steps=8)
    resumed = new(20)
    trainer = fit(resumed, steps=20, ckpt=tmp_path / "last.ckpt")
    assert trainer.global_step == 20
    torch.testing.assert_close(resumed.found, whole.found, rtol=1e-5, atol=1e-7)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert list(saved["state_dict"]) == ["change"]


def test_words_change_places_in_the_logits(gill: GILL) -> None:
    norm = read_final_norm(gill)
    stream = streams_of(gill, answers(gill))[0][0]
    old, new = 17, 200

    def logit(of: int, at: torch.Tensor) -> float:
        scale = norm.scale(stream)  # held, as the linear solve has it
        return float((norm.centre(at) / scale * norm.gain + norm.bias) @ gill.unembedding[of])

    gap = logit(old, stream) - logit(new, stream)
    moved = stream + swap(gill, norm, stream, old, new, gap=gap, margin=2.0)
    assert logit(new, moved) == pytest.approx(logit(old, stream) + 2.0, abs=1e-3)
    assert logit(old, moved) == pytest.approx(logit(new, stream), abs=1e-3)


ODD = [
    *((Rewrite, name, value) for name in ("tau", "keep", "budget", "tolerance") for value in (-1.0, NAN)),
    *((Finetune, name, value) for name in ("lr", "text", "image", "keep", "norm") for value in (INF, NAN)),
    *((Rome, "damping", value) for value in (0.0, NAN, INF)),
    *((Scale, "factor", value) for value in (1.0, NAN, INF)),
    *((Finetune, "lr", 0.0), (Rewrite, "budget", 0.0), (Rewrite, "probability", NAN), (Finetune, "batch", 1)),
    *((Rewrite, "steps", 0), (Rewrite, "steps", 2.5)),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "name", "value"), ODD, ids=lambda x: getattr(x, "name", str(x)))
def test_odd_options_are_refused_by_name(kind: type[Editor], name: str, value: float) -> None:
    options: dict[str, Any] = {name: value}
    with pytest.raises(ConfigError, match=rf"editor\.{name} must be .*, got {value}"):
        kind(**options)


def test_what_grows_beyond_all_numbers_is_refused(gill: GILL) -> None:
    module = EditingModule(problem=problem(gill), editor=Scale(factor=1e38), neurons=NEURONS)
    with pytest.raises(EditError, match=r"not finite at step 1: take an editor.factor closer to 1"):
        fit(module, steps=1)


def test_a_problem_without_anything_to_edit_is_refused(gill: GILL) -> None:
    with pytest.raises(EditError, match="nothing to edit"):
        problem(gill, role="keep")


@pytest.mark.parametrize("kind", [Rewrite, Rome, Scale, Finetune], ids=lambda kind: kind.name)
def test_an_editor_advises_settings_of_its_own(kind: type[Editor]) -> None:
    own = {field.name for field in fields(kind)}
    for advice in (kind.larger, kind.smaller):
        named = set(re.findall(r"editor\.(\w+)", advice))
        assert named
        assert named <= own
