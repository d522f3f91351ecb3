"""The floor of a method that only knows the layer: its scores, dealt out anew within each layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from nam.errors import ConfigError
from nam.options import option
from nam.reduction.base import Context, Method
from nam.reduction.seeds import generator_of


@dataclass(frozen=True, kw_only=True)
class RandomSameLayer(Method):
    """Another method's scores, permuted at random within each layer.

    Every top k has exactly as many neurons of each layer as that method's top k, and they are chosen blindly:
    what a method is better than this, it knows about neurons and not about layers. The permutation follows
    from the answer, the target's positions and a seed. Costs what the other method costs.

    Args:
        of: The other method, by its name under `configs/reduction` and with that file's settings.
        seed: Of the permutation.

    Raises:
        ConfigError: there is no such method.
    """

    name: ClassVar[str] = "random_same_layer"

    of: str = "nam"
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_whole(seed=0)
        if self.of == self.name:
            raise ConfigError(f"reduction.{self.name}.of needs another method, got {self.of}")
        # What it costs is what the other costs; a frozen instance is set through its base.
        object.__setattr__(self, "needs", _named(self.of).needs)

    def _score_batch(self, contexts: Sequence[Context]) -> list[Tensor]:
        scores = _named(self.of).score_batch(contexts)
        return [self._permuted(context, found) for context, found in zip(contexts, scores, strict=True)]

    def _permuted(self, context: Context, scores: Tensor) -> Tensor:
        generator = generator_of(context, self.seed)
        order = torch.stack([torch.from_numpy(generator.permutation(scores.shape[1])) for _ in scores])
        return scores.gather(1, order.to(scores.device))


@lru_cache(maxsize=32)
def _named(name: str) -> Method:
    method: Method = option("reduction", name)
    return method
