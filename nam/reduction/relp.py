"""RelP (Rezaei Jafari et al. 2025, arXiv 2508.21258): gradient x activation through a linearised model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from nam.reduction.base import Context, Method, Needs
from nam.reduction.gradxact import gradients_by_batch
from nam.reduction.linearise import Rules, linearised


@dataclass(frozen=True, kw_only=True)
class RelP(Method):
    """a dy/da by the rules of layer-wise relevance propagation, averaged over the target's positions.

    y is that of `GradXAct`. Its derivative is taken in a model whose norms' scales and attention patterns are
    constants, where f(x) has the slope f(x)/x and each side of a gate gets half (`nam.reduction.linearise`).

    Args:
        region: For pictures, use the region's relevance (meant to be signed), or 1 in every dimension.
        batch: Generations that are replayed together.
    """

    name: ClassVar[str] = "relp"
    needs: ClassVar[Needs] = Needs(backward=True, signed=True)

    region: bool = True
    batch: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_whole(batch=1)

    def _score_batch(self, contexts: Sequence[Context]) -> list[Tensor]:
        with linearised(contexts[0].mllm, Rules()):
            found = list(gradients_by_batch(contexts, region=self.region, batch=self.batch))
        return [(c.activations * gradient).mean(1) for c, gradient in zip(contexts, found, strict=True)]
