"""CE, the causal effect of noise on a group of neurons, split equally over the group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nam.reduction.base import Context, Method, Needs
from nam.reduction.seeds import generator_of
from nam.reduction.versions import Versions


@dataclass(frozen=True, kw_only=True)
class CausalEffect(Method):
    """Mean over draws of |y(noised) - y| / (neurons of the group * positions); y as in `GradXAct`.

    The noise is Gaussian with mean 0 and the variance of the layer's activations (over its neurons at the
    target's positions), independent for each neuron and position. What it changes has no sign of its own:
    the mean over draws of the signed change is 0 to first order, so its size counts.

    Each draw shares out the layer's neurons anew, at random, so that draws and samples tell apart the neurons
    that were in a group together. Costs a forward pass of the target's positions a group and
    draw, from its layer on.

    Args:
        group: Most neurons of a group.
        draws: Draws of groups and noise.
        seed: Of both, together with the answer itself: the batch does not show.
        region: For pictures, use the region's relevance (meant to be signed), or 1 in every dimension as in
            eq. 15.
        batch: Groups that are computed together.
        resume: Go on from the layer; False replays everything, for models that cannot.
    """

    name: ClassVar[str] = "ce"
    needs: ClassVar[Needs] = Needs(rerun=True, signed=True)

    group: int = 64
    draws: int = 2
    seed: int = 0
    region: bool = True
    batch: int = 32
    resume: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_whole(group=1, draws=1, seed=0, batch=1)

    @torch.no_grad()
    def _score_batch(self, contexts: Sequence[Context]) -> list[Tensor]:
        return [self._score_one(Versions.of(context, resume=self.resume)) for context in contexts]

    def _score_one(self, versions: Versions) -> Tensor:
        layers = range(len(versions.context.activations))
        return torch.stack([self._score_layer(versions, layer) for layer in layers])

    def _score_layer(self, versions: Versions, layer: int) -> Tensor:
        """The scores of a layer, (d,)."""
        context = versions.context
        directions = context.after_norm(region=self.region)
        a = context.activations[layer]
        positions, width = a.shape
        spread = a.std(correction=0)
        groups = -(-width // self.group)
        generator = generator_of(context, self.seed, layer)
        # From the same activations as the versions, whichever pass they were read in.
        plain = versions.hidden(a[None], layer=layer)
        total = torch.zeros_like(a[0])
        for _ in range(self.draws):
            noise = spread * torch.from_numpy(generator.standard_normal((positions, width))).to(a)
            member = torch.from_numpy(generator.permutation(width) % groups).to(a.device)
            changes = []
            for some in torch.arange(groups, device=a.device).split(self.batch):
                chosen = (member == some[:, None])[:, None]
                hidden = versions.hidden(a + noise * chosen, layer=layer)
                changes.append(((hidden - plain) * directions).sum((1, 2)).abs())
            share = torch.cat(changes) / member.bincount(minlength=groups)
            total += share[member]
        return total / (self.draws * positions)
