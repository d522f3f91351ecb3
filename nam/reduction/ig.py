"""GraI, integrated gradients (Sundararajan et al. 2017) of a layer scaled jointly (Dai et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from nam.reduction.base import Context, Method, Needs
from nam.reduction.baseline import Baseline, activations_of
from nam.reduction.versions import Versions, not_inference


@dataclass(frozen=True, kw_only=True)
class IntegratedGradients(Method):
    """(a - b) times the mean gradient dy/da on the straight line from b to a, averaged over the positions.

    All neurons of a layer at all of the target's positions go from the baseline b to their activation a
    together; the other positions and layers follow. y is that of `GradXAct`, so a layer's scores add up to
    (y(a) - y(b)) / positions but for the error of the integral, which is a sum over Gauss-Legendre nodes.
    Costs a forward and a backward pass of the target's positions a step and layer, from that layer on.

    Args:
        steps: Nodes.
        baseline: b: 0, or the neuron's mean over a reference set.
        region: For pictures, use the region's relevance (meant to be signed), or 1 in every dimension as in
            eq. 15.
        batch: Steps that are computed together.
        resume: Go on from the layer; False replays everything, for models that cannot.
    """

    name: ClassVar[str] = "ig"
    needs: ClassVar[Needs] = Needs(backward=True, rerun=True, signed=True)

    steps: int = 20
    baseline: Baseline = "zero"
    region: bool = True
    batch: int = 32
    resume: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_whole(steps=1, batch=1)

    def _score_batch(self, contexts: Sequence[Context]) -> list[Tensor]:
        # A Trainer predicts in inference mode, where nothing has a gradient.
        with torch.inference_mode(False), torch.enable_grad():
            return [self._score_one(context) for context in contexts]

    def _score_one(self, context: Context) -> Tensor:
        directions = not_inference(context.after_norm(region=self.region))
        activations = not_inference(context.activations)
        mean = activations_of(self.baseline, context, method=self.name)
        start = torch.zeros_like(activations)
        if mean is not None:
            start = mean.to(activations)[:, None].expand_as(activations)
        nodes, weights = _gauss_legendre(self.steps)
        layers, versions = [], Versions.of(context, resume=self.resume)
        for layer, (a, b) in enumerate(zip(activations, start, strict=True)):
            gradient = torch.zeros_like(a)
            for low in range(0, self.steps, self.batch):
                at, weight = (x[low : low + self.batch, None, None].to(a) for x in (nodes, weights))
                points = (b + at * (a - b)).requires_grad_()
                hidden = versions.hidden(points, layer=layer)
                # The versions do not see one another: the gradient of their sum is each one's own.
                (found,) = torch.autograd.grad((hidden * directions).sum(), points)
                gradient += (weight * found).sum(0)
            layers.append(((a - b) * gradient).mean(0))
        return torch.stack(layers)


def _gauss_legendre(steps: int) -> tuple[Tensor, Tensor]:
    """Nodes in (0, 1) and weights that add up to 1, float64."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return torch.from_numpy((nodes + 1) / 2), torch.from_numpy(weights / 2)
