"""The paper's comparison of edits (its table 3): the norm that each selection needs for the same change of
the pictures. Eq. 8 is solved within a budget of norm that grows until the judge sees the target in the
pictures rather than the source; the same rule, prompts and noise for every selection.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.editing.lab import Lab
from nam.data.edits import Asked
from nam.editor.base import Problem
from nam.editor.delta import difference
from nam.evaluate import growth
from nam.types import NeuronSet
from nam.world.scene import NOUNS


def grow(lab: Lab, problem: Problem, neurons: NeuronSet) -> dict[str, Any]:
    """Grow an edit until the pictures of every seed have turned.

    Returns:
        `budgets` tried, `evidence` (budget x seed: mean over requests of the judge's log-odds of the target
        less those of the source), `norms` (by seed: where it crosses 0 between two budgets; None where it
        never does); and, at the last budget, what `Lab.judged` gives, `norm` and `neurons`.
    """
    requests, seeds = lab.grown
    asked = lab.prompts.held_out(problem.goal.source.name, "draw", requests, seeds=seeds)
    grown = growth.grow(problem, neurons, lambda: _evidence(lab, problem, asked))
    delta = difference(problem.mllm, neurons, grown.change)
    goal = problem.goal
    observed, moved = lab.judged([delta], [(goal.source.name, goal.target.name)])
    return {
        "budgets": list(grown.budgets),
        "evidence": grown.evidence.round(4).tolist(),
        "norms": grown.norms,
        "observed": observed,
        "drift": moved,
        "norm": delta.norm,
        "neurons": len(neurons),
    }


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
