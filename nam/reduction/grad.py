"""GraD, the gradient alone: how the target would change if the neuron fired more, whether it fires or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from nam.reduction.base import Context, Method, Needs
from nam.reduction.gradxact import gradients_by_batch


@dataclass(frozen=True, kw_only=True)
class Grad(Method):
    """dy/da, averaged over the target's positions; y as in `GradXAct`.

    Args:
        region: For pictures, use the region's relevance (meant to be signed), or 1 in every dimension as in
            eq. 15.
        batch: Generations that are replayed together.
    """

    name: ClassVar[str] = "grad"
    needs: ClassVar[Needs] = Needs(backward=True, signed=True)

    region: bool = True
    batch: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_whole(batch=1)

    def _score_batch(self, contexts: Sequence[Context]) -> list[Tensor]:
        found = gradients_by_batch(contexts, region=self.region, batch=self.batch)
        return [gradient.mean(1) for gradient in found]
