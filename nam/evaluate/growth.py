"""Edits of equal effect: eq. 8 within a budget of norm that grows until the pictures have turned (paper,
table 3). The closed form makes the most active neurons optimal by construction; only at an equal change of
the pictures do norms say something about the neurons.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nam.editor.base import Problem
from nam.editor.delta import difference
from nam.editor.reach import reach
from nam.editor.rewrite import Rewrite
from nam.types import NeuronSet

#: Budgets of l2 norm, each 2^(1/2) times the one before it.
BUDGETS = tuple(float(2 ** (step / 2)) for step in range(-1, 13))

#: Times that eq. 8 is solved again from where the model stands, within one budget.
_ROUNDS = 3

#: Evidence, of each seed of noise, that pictures show the target rather than the source: above 0 they do.
Evidence = Callable[[], NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class Growth:
    """An edit that grew.

    Attributes:
        budgets: The norms that it had.
        evidence: Before it, and at each of these norms: (budgets + 1, seeds).
        change: At the last one, (n, H).
    """

    budgets: tuple[float, ...]
    evidence: NDArray[np.float64]
    change: Tensor

    @property
    def norms(self) -> list[float | None]:
        """Of each seed: where its evidence crosses 0, between two budgets; None where it never does."""
        return [crossing([0.0, *self.budgets], column) for column in self.evidence.T]


def grow(
    problem: Problem, neurons: NeuronSet, evidence: Evidence, *, budgets: Sequence[float] = BUDGETS
) -> Growth:
    """Grow an edit until the pictures of every seed have turned, or nothing more comes.

    Args:
        problem: What is to become what, and on which cases.
        neurons: Whose value vectors are changed.
        evidence: Reads the model as it then is.
        budgets: Norms that are tried, ascending.
    """
    change = torch.zeros(len(neurons), problem.mllm.unembedding.shape[1], device=problem.mllm.device)
    found, tried = [evidence()], list[float]()
    for budget in budgets:
        change = within(problem, neurons, change, budget)
        with difference(problem.mllm, neurons, change).applied(problem.mllm):
            found.append(evidence())
        tried.append(float(change.norm()))
        # Every seed has turned; or the least squares is solved within less, and nothing more comes.
        if bool((found[-1] > 0).all()) or (len(tried) > 1 and tried[-1] < 1.01 * tried[-2]):
            break
    return Growth(tuple(tried), np.stack(found), change)


def within(problem: Problem, neurons: NeuronSet, change: Tensor, budget: float) -> Tensor:
    """The best change (n, H) of at most this norm that a few rounds of eq. 8 find from a given one; what
    must stay is not looked at, as in the paper."""
    editor = Rewrite(tau=1e-3, keep=0.0, budget=budget)
    edited = replace(problem, cases=tuple(case for case in problem.cases if case.edited))
    for _ in range(_ROUNDS):
        change = editor.solve(reach(edited, neurons, change), change)
    return change


def crossing(norms: Sequence[float], evidence: NDArray[np.float64]) -> float | None:
    """Where evidence that grows with the norm first crosses 0, on the straight line between two norms."""
    for i in range(1, len(norms)):
        low, high = float(evidence[i - 1]), float(evidence[i])
        if low <= 0 < high:
            return norms[i - 1] + (norms[i] - norms[i - 1]) * -low / (high - low)
    return None
