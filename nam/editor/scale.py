"""Scaling: suppress or amplify what the chosen neurons write."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from nam.editor.base import Problem, Solver
from nam.editor.columns import read_columns
from nam.editor.reach import Reached, reach
from nam.errors import ConfigError
from nam.types import NeuronSet


@dataclass(frozen=True, kw_only=True)
class Scale(Solver):
    """Every chosen value vector times a factor; what is wanted is not looked at.

    Attributes:
        factor: 0 suppresses, above 1 amplifies, -1 reverses.
    """

    name: ClassVar[str] = "scale"
    larger: ClassVar[str] = "take an editor.factor further from 1"
    smaller: ClassVar[str] = "take an editor.factor closer to 1"

    steps: int = 1
    factor: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not math.isfinite(self.factor) or self.factor == 1:
            raise ConfigError(f"editor.factor must be finite, and not 1, got {self.factor}")

    def propose(
        self, problem: Problem, neurons: NeuronSet, change: Tensor, here: Reached
    ) -> tuple[Tensor, Reached]:
        there = (self.factor - 1) * read_columns(problem.mllm, neurons).to(change)
        return there, reach(problem, neurons, there)
