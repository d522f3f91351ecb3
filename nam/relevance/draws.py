"""What relevance providers need of a picture: its hidden states, its latents, its noise schedule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from nam.errors import ConfigError, ModelError
from nam.mllm.base import MLLM
from nam.mllm.diffusion import Diffusion
from nam.types import Generation


def hidden_leaf(mllm: MLLM, generations: Sequence[Generation]) -> tuple[Tensor, Tensor]:
    """Hidden states (B, P, H) to differentiate by, in float32 or finer, and as the model reads them.

    Raises:
        ConfigError: the model computes in float16, in which gradients overflow.
    """
    if mllm.dtype == torch.float16:
        raise ConfigError(
            "gradients through a picture generator overflow in float16: set mllm.dtype=bfloat16"
        )
    precision = torch.promote_types(mllm.dtype, torch.float32)
    states = torch.stack([cast(Tensor, generation.hidden) for generation in generations])
    hidden = states.to(mllm.device, precision).requires_grad_()
    return hidden, hidden.to(mllm.dtype)


def finished_latents(generations: Sequence[Generation], *, like: Tensor) -> Tensor:
    """The drawn pictures' latents (B, C, h, w), on `like`'s device and in its dtype."""
    return torch.stack([cast(Tensor, generation.latents) for generation in generations]).to(like)


def noise_schedule(diffusion: Diffusion, level: float) -> tuple[int, float, float]:
    """Timestep t, a and s of a level from 0 (the picture) to 1 (noise): x_t = a x_0 + s noise, a^2 + s^2 = 1.

    Raises:
        ModelError: the scheduler has no such noise schedule.
    """
    kept = getattr(diffusion.scheduler, "alphas_cumprod", None)
    if kept is None:
        raise ModelError(
            f"{type(diffusion.scheduler).__name__} has no alphas_cumprod: set mllm.sampler=ddim or dpm++, "
            "or relevance=gradient"
        )
    time = round(level * (len(kept) - 1))
    share = float(kept[time])
    return time, share**0.5, (1 - share) ** 0.5
