"""The paper's comparison of edits (its table 3): the norm that each selection needs for the same change of
the pictures. Eq. 8 is solved within a budget of norm that grows until the judge sees the target in the
pictures rather than the source; the same rule, prompts and noise for every selection.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.editing.lab import Lab
from nam.data.edits import Asked
from nam.editor.base import Problem
from nam.editor.delta import difference
from nam.editor.reach import reach
from nam.editor.rewrite import Rewrite
from nam.types import NeuronSet
from nam.world.scene import NOUNS

#: Budgets of l2 norm, each 2^(1/2) times the one before it.
BUDGETS = tuple(float(2 ** (step / 2)) for step in range(-1, 13))

#: Times that eq. 8 is solved again from where the model stands, within one budget.
_ROUNDS = 3


def grow(lab: Lab, problem: Problem, neurons: NeuronSet) -> dict[str, Any]:
    """Grow an edit until the pictures of every seed have turned.

    Returns:
        `budgets` tried, `evidence` (budget x seed: mean over requests of the judge's log-odds of the target
        less those of the source), `norms` (by seed: where it crosses 0 between two budgets; None where it
        never does); and, at the last budget, what `Lab.judged` gives, `norm` and `neurons`.
    """
    requests, seeds = lab.grown
    asked = lab.prompts.held_out(problem.goal.source.name, "draw", requests, seeds=seeds)
    change = torch.zeros(len(neurons), problem.mllm.unembedding.shape[1], device=problem.mllm.device)
    found: list[NDArray[np.float64]] = [_evidence(lab, problem, asked)]
    tried: list[float] = []
    for budget in BUDGETS:
        change = within(problem, neurons, change, budget)
        with difference(problem.mllm, neurons, change).applied(problem.mllm):
            found.append(_evidence(lab, problem, asked))
        tried.append(float(change.norm()))
        # Every seed has turned; or the least squares is solved within less, and nothing more comes.
        if bool((found[-1] > 0).all()) or (len(tried) > 1 and tried[-1] < 1.01 * tried[-2]):
            break
    delta = difference(problem.mllm, neurons, change)
    goal = problem.goal
    observed, moved = lab.judged([delta], [(goal.source.name, goal.target.name)])
    table = np.stack(found)
    return {
        "budgets": tried,
        "evidence": table.round(4).tolist(),
        "norms": [crossing([0.0, *tried], column) for column in table.T],
        "observed": observed,
        "drift": moved,
        "norm": delta.norm,
        "neurons": len(neurons),
    }


def within(problem: Problem, neurons: NeuronSet, change: Tensor, budget: float) -> Tensor:
    """The best change (n, H) of at most this norm that a few rounds of eq. 8 find from a given one; what
    must stay is not looked at, as in the paper."""
    editor = Rewrite(tau=1e-3, keep=0.0, budget=budget)
    edited = replace(problem, cases=tuple(case for case in problem.cases if case.edited))
    for _ in range(_ROUNDS):
        change = editor.solve(reach(edited, neurons, change), change)
    return change


def crossing(norms: list[float], evidence: NDArray[np.float64]) -> float | None:
    """Where evidence that grows with the norm first crosses 0, on the straight line between two norms."""
    for i in range(1, len(norms)):
        low, high = float(evidence[i - 1]), float(evidence[i])
        if low <= 0 < high:
            return norms[i - 1] + (norms[i] - norms[i - 1]) * -low / (high - low)
    return None


def _evidence(lab: Lab, problem: Problem, asked: list[Asked]) -> NDArray[np.float64]:
    """For each seed, the judge's mean log-odds of the target less those of the source."""
    generations = []
    for start in range(0, len(asked), lab.held_out.batch):
        part = [one.sample for one in asked[start : start + lab.held_out.batch]]
        generations += lab.mllm.generate_batch(part, draw="auto")
    target, source = (NOUNS.index(name.name) for name in (problem.goal.target, problem.goal.source))
    values = np.full(len(asked), -np.inf)
    drawn = [i for i, generation in enumerate(generations) if generation.image is not None]
    if drawn:
        seen = lab.judge.evidence([g.image for g in generations if g.image is not None]).numpy()
        values[drawn] = seen[:, target] - seen[:, source]
    # Log-odds beyond 8 are a certainty, and one picture must not outweigh the others.
    clipped: NDArray[np.float64] = values.clip(-8, 8).reshape(lab.grown).mean(0)
    return clipped
