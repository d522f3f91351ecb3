"""AcT: the activation itself, whatever it writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from nam.reduction.base import Context, Method, Needs


@dataclass(frozen=True, kw_only=True)
class Act(Method):
    """a, averaged over the target's positions. There is no direction in it, so a region changes nothing."""

    name: ClassVar[str] = "act"
    needs: ClassVar[Needs] = Needs()

    def _score_batch(self, contexts: Sequence[Context]) -> list[Tensor]:
        return [context.activations.mean(1) for context in contexts]
