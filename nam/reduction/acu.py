"""AcU (Pan et al. 2024): activation times unembedding, a neuron's contribution without NAM's gate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from nam.reduction.base import Context, Method, Needs
from nam.reduction.contributions import contributions_of
from nam.reduction.folding import Norm
from nam.reduction.functional import over_positions


@dataclass(frozen=True, kw_only=True)
class AcU(Method):
    """a <w, u>, averaged over the target's positions; u is a word's unembedding row, or a region's R.

    Args:
        norm: "ignore" the final norm, or "fold" it into the direction.
        region: For pictures, use the region's relevance R, or 1 in every dimension as in eq. 15.
    """

    name: ClassVar[str] = "acu"
    needs: ClassVar[Needs] = Needs()

    norm: Norm = "ignore"
    region: bool = True

    def _score_batch(self, contexts: Sequence[Context]) -> list[Tensor]:
        directions = [context.directions(norm=self.norm, region=self.region) for context in contexts]
        return [over_positions(s, how="mean") for s in contributions_of(contexts, directions)]
