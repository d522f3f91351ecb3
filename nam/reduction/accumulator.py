"""Sums of scores over the samples of a run, added up over processes at the end."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from nam.errors import InputError, nearest
from nam.types import Modality, Scores

#: Concept, modality and method.
Key = tuple[str, Modality, str]


class ScoreAccumulator(Metric):
    """Dense sums and counts of scores per concept, modality and method.

    Sums are float64: the order in which samples and processes come by does not show in float32.

    Args:
        keys: What may come, the same on every process.
        layers: Layers L.
        width: Neurons d of a layer.
    """

    full_state_update = False
    sums: Tensor
    counts: Tensor

    def __init__(self, *, keys: Sequence[Key], layers: int, width: int) -> None:
        super().__init__()
        self.keys = tuple(dict.fromkeys(keys))
        zeros = torch.zeros(len(self.keys), layers, width, dtype=torch.float64)
        self.add_state("sums", zeros, dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(len(self.keys), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, scores: Scores) -> None:
        """Add one sample's scores.

        Raises:
            InputError: its key was not announced, or its shape is another.
        """
        key: Key = (scores.concept.name, scores.modality, scores.method)
        if key not in self.keys:
            hint = nearest("/".join(key), ["/".join(known) for known in self.keys])
            raise InputError(f"scores of {'/'.join(key)} were not expected ({hint})")
        if scores.scores.shape != self.sums.shape[1:]:
            expected, got = tuple(self.sums.shape[1:]), tuple(scores.scores.shape)
            raise InputError(f"expected scores of shape {expected}, got {got}")
        index = self.keys.index(key)
        self.sums[index] += scores.scores.to(self.sums)
        self.counts[index] += 1

    def compute(self) -> dict[Key, tuple[Tensor, int]]:
        """Sum (L, d) float64 and number of samples of every key that came by; the mean is their ratio."""
        return {
            key: (self.sums[index].clone(), int(self.counts[index]))
            for index, key in enumerate(self.keys)
            if int(self.counts[index])
        }
