"""Cheap relevance: the drawn picture at a few noise levels instead of the whole denoising loop.

At a level with x = a x_0 + s noise, write y = x / a = x_0 + sigma noise. The U-Net's estimate f(y, c) of the
picture under the conditioning c is differentiated at the FINISHED latent x_0, mixed again with the very noise
that it was drawn from: the deterministic sampler's own y is close to that. DDIM from one level to the next
lower one is y' = (1 - r) f + r y with r = sigma' / sigma, so the region is pulled back from level to level as
through a sampler of as many steps, but one whose every point is known beforehand.

With guidance g the estimate is g f(y, c) - (g - 1) f(y, empty). The second term does not depend on c, and its
slope by y is replaced by a^2, that of the best linear denoiser of latents with unit variance: half the price.

One level is the default: a second one doubles the price, and on the embedded model brings nothing. Nor does
what the U-Net reads of the conditioning on its way down, so the gradient goes back through its way up alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, cast

import torch
from torch import Tensor

from nam.errors import ConfigError, ModelError
from nam.mllm.base import MLLM
from nam.mllm.diffusion import Diffusion
from nam.mllm.drawer import require_drawer
from nam.relevance.base import Pulled, Relevance, counted_rows
from nam.relevance.draws import finished_latents, hidden_leaf, noise_schedule
from nam.relevance.region import region_in_latents
from nam.types import DrawSettings, Generation

#: Which part of the U-Net a gradient goes back through.
Through = Literal["up", "whole"]


@dataclass(frozen=True, kw_only=True, eq=False)
class LevelsRelevance(Relevance):
    """An estimate of dP_M/dh from one forward and one backward pass a level: 2 U-Net evaluations each.

    Attributes:
        levels: Noise levels as shares of the noise schedule, from noise (1) towards the picture (0). More are
            nearer to the whole sampler, as far as its path is as straight as assumed.
        through: At the first level, which needs no slope by y, the gradient goes back through the U-Net's way
            "up" alone, where it holds what it read on the way down, or through the "whole" of it.
    """

    levels: Sequence[float] = (0.45,)
    through: Through = "up"

    def __post_init__(self) -> None:
        super().__post_init__()
        given = list(self.levels)
        falling = all(high > low for high, low in pairwise(given))
        if not given or not falling or not all(0 < level < 1 for level in given):
            raise ConfigError(f"relevance.levels must fall from below 1 (noise) to above 0, got {given}")

    def pull(self, mllm: MLLM, generations: Sequence[Generation], masks: Tensor) -> Pulled:
        drawer = require_drawer(mllm, generations[0].medium, purpose="relevance=levels")
        guidance = cast(DrawSettings, generations[0].drawn).guidance
        hidden, read = hidden_leaf(mllm, generations)
        conditioning = drawer.conditioning(read)
        latents = finished_latents(generations, like=conditioning)
        noise = drawer.diffusion.noise([generation.seed for generation in generations], like=read)
        cotangent = region_in_latents(drawer.diffusion, latents, masks)
        with counted_rows(drawer.diffusion.parts.get("unet", like=read)) as rows:
            by_conditioning = pull_through_levels(
                drawer.diffusion,
                conditioning.detach(),
                latents,
                noise,
                cotangent,
                self.levels,
                guidance,
                self.through,
            )
        (gradients,) = torch.autograd.grad(conditioning, hidden, grad_outputs=by_conditioning)
        backward = sum(rows)  # every forward pass is followed by its backward pass
        return Pulled(gradients, (sum(rows) + backward) / len(generations))


def pull_through_levels(
    diffusion: Diffusion,
    conditioning: Tensor,
    latents: Tensor,
    noise: Tensor,
    cotangent: Tensor,
    levels: Sequence[float],
    guidance: float,
    through: Through,
) -> Tensor:
    """The gradient by the conditioning (B, Q, E) of what `cotangent` (B, C, h, w) measures of the picture.

    One level holds its graph at a time: each needs the cotangent that the next lower one gives.
    """
    gradient = torch.zeros_like(conditioning)
    kept = torch.zeros_like(latents)  # the part of y that a step leaves as it is
    schedule = [noise_schedule(diffusion, level) for level in levels]
    for index in reversed(range(len(schedule))):
        time, a, s = schedule[index]
        given = conditioning.detach().requires_grad_()
        # Nothing is wanted of the first level's y: noise does not depend on the conditioning.
        y = (latents + s / a * noise).detach().requires_grad_(index > 0)
        held = nullcontext() if index or through == "whole" else way_down_held(diffusion, like=y)
        with held:
            estimate = estimate_picture(diffusion, a * y, time, a, s, given)
        leaves = (given, y) if index else (given,)
        slopes = torch.autograd.grad(estimate, leaves, grad_outputs=cotangent)
        gradient = gradient + guidance * slopes[0]
        if index:
            _, higher_a, higher_s = schedule[index - 1]
            ratio = (s / a) / (higher_s / higher_a)
            slope = guidance * slopes[1] - (guidance - 1) * a**2 * cotangent + kept
            cotangent, kept = (1 - ratio) * slope, ratio * slope
    return gradient


@contextmanager
def way_down_held(diffusion: Diffusion, *, like: Tensor) -> Iterator[None]:
    """Forward passes of the U-Net keep a graph of its way up alone; what comes before counts as constant, but
    for what the conditioning adds to the embedding of the timestep."""
    unet: Any = diffusion.parts.get("unet", like=like)
    before = torch.is_grad_enabled()

    def pause(*_: object) -> None:
        torch.set_grad_enabled(False)

    def resume(*_: object) -> None:
        torch.set_grad_enabled(before)

    hooks = [
        unet.conv_in.register_forward_pre_hook(pause),
        unet.up_blocks[0].register_forward_pre_hook(resume),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        torch.set_grad_enabled(before)


def estimate_picture(
    diffusion: Diffusion, noised: Tensor, time: int, a: float, s: float, conditioning: Tensor
) -> Tensor:
    """The U-Net's estimate of x_0 (B, C, h, w) from x = a x_0 + s noise, whatever it was trained to predict.

    Raises:
        ModelError: it predicts something unknown.
    """
    unet = diffusion.network(like=noised)
    output: Tensor = unet(
        noised, torch.tensor(time, device=noised.device), encoder_hidden_states=conditioning
    ).sample
    match diffusion.scheduler.config.prediction_type:
        case "epsilon":
            return (noised - s * output) / a
        case "v_prediction":
            return a * noised - s * output
        case "sample":
            return output
        case unknown:
            raise ModelError(
                f"the scheduler's prediction_type {unknown!r} is unknown; set relevance=gradient"
            )
