"""Rewriting: a closed form for the value vectors, iterated until the model itself gives what was wanted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nam.editor.base import KEEP, Problem, Solver
from nam.editor.reach import Reached, reach
from nam.types import NeuronSet

#: How often a step is halved before it is given up.
_HALVINGS = 3

#: Least share of the objective that a step has to gain.
_LEAST = 0.01


@dataclass(frozen=True, kw_only=True)
class Rewrite(Solver):
    """Eq. 8 of the paper for all positions, prompts and seeds at once, as one ridge least squares.

    With A the chosen neurons' activations and R what is still missing of the residual stream, both in units
    of the final norm's scale, a step solves

        min  mean_edit |A d - R|^2 + keep * mean_keep |A d - R|^2 + tau * |change + d|^2 * mean |A|^2 / n

    in closed form. Eq. 8 knows the direct path alone; here R is measured anew after every step, later layers
    and the final norm included, and a step that does not come closer is halved.

    Attributes:
        tau: Ridge on the whole change.
        keep: Weight of the positions that must stay, against those that are edited.
        budget: Most l2 norm of the change; the ridge grows until it is met. None for no limit.
    """

    name: ClassVar[str] = "rewrite"
    larger: ClassVar[str] = "raise editor.budget or lower editor.tau"
    smaller: ClassVar[str] = "raise editor.tau"

    tau: float = 0.1
    keep: float = 4.0
    budget: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._refuse_odd("tau", "keep")
        if self.budget is not None:
            self._refuse_odd("budget", above=True)

    def propose(
        self, problem: Problem, neurons: NeuronSet, change: Tensor, here: Reached
    ) -> tuple[Tensor, Reached]:
        best = self.objective(here, change)
        step = self.solve(here, change) - change
        for _ in range(_HALVINGS):
            there = change + step
            reached = reach(problem, neurons, there)
            if self.objective(reached, there) < best * (1 - _LEAST):
                return there, reached
            step = step / 2
        return change, here

    def objective(self, reached: Reached, change: Tensor) -> float:
        """What a step has to lower: the sum above, as the model itself gives it."""
        away = ((reached.wanted - reached.stream) / reached.scale).square().sum(1)
        ridge = self._ridge(reached) * change.double().square().sum()
        return float((self._weights(reached) * away).sum() + ridge)

    def solve(self, reached: Reached, change: Tensor) -> Tensor:
        """The whole change (n, H) that the closed form gives where the model stands at `change`."""
        weights = self._weights(reached).double().sqrt()[:, None] / reached.scale.double()
        rows = reached.activations.double() * weights
        missing = (reached.wanted - reached.stream).double() * weights
        values, vectors = torch.linalg.eigh(rows.T @ rows)
        ridge = self._ridge(reached)
        # In terms of the whole change the penalty is plain, and what is there already counts as reached.
        pull = vectors.T @ (rows.T @ (missing + rows @ change.double()))
        found = vectors @ (pull / (values.clamp(min=0) + ridge)[:, None])
        while self.budget is not None and float(found.norm()) > self.budget:
            ridge *= 1.5
            found = vectors @ (pull / (values.clamp(min=0) + ridge)[:, None])
        return found.to(change.dtype)

    def _weights(self, reached: Reached) -> Tensor:
        kept = reached.roles == KEEP
        weights = torch.where(kept, self.keep / kept.sum().clamp(min=1), 1 / (~kept).sum().clamp(min=1))
        return weights.to(reached.stream.dtype)

    def _ridge(self, reached: Reached) -> float:
        rows = reached.activations / reached.scale
        mean = (self._weights(reached)[:, None] * rows.square()).sum() / rows.shape[1]
        return max(self.tau * float(mean), 1e-12)
