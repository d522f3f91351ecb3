"""The floor: scores of noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nam.reduction.base import Context, Method, Needs
from nam.reduction.seeds import generator_of


@dataclass(frozen=True, kw_only=True)
class Random(Method):
    """Standard normal noise that follows from the answer, the target's positions and a seed.

    Args:
        seed: Of the noise.
    """

    name: ClassVar[str] = "random"
    needs: ClassVar[Needs] = Needs()

    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_whole(seed=0)

    def _score_batch(self, contexts: Sequence[Context]) -> list[Tensor]:
        layers, _, width = contexts[0].activations.shape
        drawn = [generator_of(context, self.seed).standard_normal((layers, width)) for context in contexts]
        return [torch.from_numpy(values).to(contexts[0].activations) for values in drawn]
