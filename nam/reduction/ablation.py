"""Exact ablation: what the target loses when one neuron is put to its baseline and all that follows is
computed again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from nam.errors import ConfigError
from nam.reduction.ablated import Positions, ablate
from nam.reduction.base import Context, Method, Needs
from nam.reduction.baseline import Baseline, activations_of
from nam.types import Neuron, NeuronSet

if TYPE_CHECKING:
    from nam.mllm.base import MLLM


@dataclass(frozen=True, kw_only=True)
class Ablation(Method):
    """(y - y_ablated) / P for each neuron by itself: the effect that the other methods estimate.

    y sums <direction, h> over the target's P positions, as in `GradXAct`. Where y is linear in an activation,
    the score is the activation, less its baseline, times the gradient. Costs a forward pass of one position
    (or as many as the target spans) through the later layers for each neuron.

    Args:
        baseline: What an activation becomes: 0, or the neuron's mean over a reference set.
        positions: Where it does: at the target's positions, which the other methods score, or at all.
        neurons: Ablate a sample of this size; None for all. The score of every other neuron is 0: `sampled`
            tells them apart.
        seed: Of the sample, which depends on the numbers of layers and neurons and on nothing else.
        region: For pictures, use the region's relevance (meant to be signed), or 1 in every dimension.
        batch: Tokens that are computed together.
        resume: Go on from the neuron's layer; False replays everything, for models that cannot.
    """

    name: ClassVar[str] = "ablation"
    needs: ClassVar[Needs] = Needs(rerun=True, signed=True)

    baseline: Baseline = "zero"
    positions: Positions = "target"
    neurons: int | None = None
    seed: int = 0
    region: bool = True
    batch: int = 512
    resume: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_whole(seed=0, batch=1)
        if self.neurons is not None:
            self._require_whole(neurons=1)

    def sampled(self, mllm: MLLM) -> Tensor:
        """Which neurons are ablated, bool (L, d) on the CPU.

        Raises:
            ConfigError: the model has fewer than the sample should.
        """
        layers, width = len(mllm.ffn_sites), mllm.ffn_sites[0].width
        mask = torch.ones(layers, width, dtype=torch.bool)
        if self.neurons is None:
            return mask
        if self.neurons > mask.numel():
            raise ConfigError(
                f"reduction.ablation.neurons must be at most {mask.numel()} for {mllm.name} ({layers} layers "
                f"of {width}), got {self.neurons}; null ablates all"
            )
        chosen = np.random.default_rng(self.seed).choice(mask.numel(), self.neurons, replace=False)
        mask.zero_().view(-1)[torch.from_numpy(chosen)] = True
        return mask

    def _score_batch(self, contexts: Sequence[Context]) -> list[Tensor]:
        where = self.sampled(contexts[0].mllm).nonzero().tolist()
        neurons = NeuronSet(tuple(Neuron(layer, unit) for layer, unit in where))
        return [self._score_one(context, neurons) for context in contexts]

    def _score_one(self, context: Context, neurons: NeuronSet) -> Tensor:
        directions = context.after_norm(region=self.region)
        baseline = activations_of(self.baseline, context, method=self.name)
        sites = context.mllm.ffn_sites
        scores = directions.new_zeros(len(sites), sites[0].width)
        for found in ablate(
            context,
            neurons,
            baseline=baseline,
            positions=self.positions,
            batch=self.batch,
            resume=self.resume,
        ):
            scores[found.layers, found.units] = found.lost(directions)
        return scores
