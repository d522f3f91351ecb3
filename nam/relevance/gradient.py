"""The paper's relevance: back-propagation from pixels through decoder, denoising loop and mapper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from nam.errors import ConfigError
from nam.mllm.base import MLLM
from nam.mllm.drawer import require_drawer
from nam.relevance.base import Pulled, Relevance, counted_rows
from nam.relevance.draws import hidden_leaf
from nam.types import DrawSettings, Generation


@dataclass(frozen=True, kw_only=True, eq=False)
class GradientRelevance(Relevance):
    """dP_M/dh through the sampler that drew the picture, with its own noise and settings.

    Pixels are counted from 0 (black) to 1 (white) and not clipped. The generations of a call share one pass
    forward and one backward, since the pixels of one do not depend on the hidden states of another.

    Attributes:
        last_steps: Back-propagate through the last this many denoising steps only; None for all. Those
            before are computed all the same. More than there are means all.
        checkpoint: Recompute each U-Net call in the backward pass instead of keeping its activations: the
            same gradient with the memory of one step.
    """

    last_steps: int | None = None
    checkpoint: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.last_steps is not None and self.last_steps < 1:
            raise ConfigError(f"relevance.last_steps must be at least 1, or null, got {self.last_steps}")

    def pull(self, mllm: MLLM, generations: Sequence[Generation], masks: Tensor) -> Pulled:
        settings = cast(DrawSettings, generations[0].drawn)
        drawer = require_drawer(mllm, generations[0].medium, purpose="relevance=gradient")
        drawer.require_sampler(settings)
        hidden, read = hidden_leaf(mllm, generations)
        noise = drawer.diffusion.noise([generation.seed for generation in generations], like=read)
        with counted_rows(drawer.diffusion.parts.get("unet", like=read)) as rows:
            pixels = drawer.render(
                read, noise, settings, grad_steps=self.last_steps, checkpoint=self.checkpoint
            )
            forward, per_step = sum(rows), rows[0]
            # P_M of every sample at once: the mask is the gradient of its sum.
            region = masks.to(pixels)[:, None].expand_as(pixels)
            (gradients,) = torch.autograd.grad(pixels, hidden, grad_outputs=region)
        backward = forward if self.last_steps is None else min(forward, self.last_steps * per_step)
        return Pulled(gradients, (sum(rows) + backward) / len(generations))
