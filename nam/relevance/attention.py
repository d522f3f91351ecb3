"""Relevance without a backward pass through the U-Net: what the region attends to (DAAM, Tang et al. 2023).

The cross-attention maps of the finished latent at one noise level say how much of the region's attention each
position q of the conditioning gets, r_q. What these positions carry of the request is their distance from the
empty caption's, so the objective is

    sum_q r_q |c_q - u_q|^2 / 2     with r held constant,

pulled back through the mapper by one vector-Jacobian product. It knows where the picture was read from, and
nothing of what changing it does to the pixels: its sign means closeness to the request, not brightness.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nam.errors import ConfigError, ModelError
from nam.mllm.base import MLLM
from nam.mllm.drawer import require_drawer
from nam.relevance.base import Pulled, Relevance, counted_rows
from nam.relevance.draws import finished_latents, hidden_leaf, noise_schedule
from nam.types import Generation


@dataclass(frozen=True, kw_only=True, eq=False)
class AttentionRelevance(Relevance):
    """Cross-attention inside the region, at the price of one U-Net evaluation.

    Attributes:
        level: Noise level as a share of the noise schedule, between 0 (the picture) and 1 (noise).
    """

    level: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.level < 1:
            raise ConfigError(f"relevance.level must be between 0 and 1, got {self.level}")

    def pull(self, mllm: MLLM, generations: Sequence[Generation], masks: Tensor) -> Pulled:
        if generations[0].medium != "image":
            raise ConfigError(
                f"relevance=attention knows regions of pictures alone, not of {generations[0].medium}: set "
                "relevance=gradient or levels"
            )
        drawer = require_drawer(mllm, generations[0].medium, purpose="relevance=attention")
        hidden, read = hidden_leaf(mllm, generations)
        conditioning = drawer.conditioning(read)
        latents = finished_latents(generations, like=conditioning)
        noise = drawer.diffusion.noise([generation.seed for generation in generations], like=read)
        time, a, s = noise_schedule(drawer.diffusion, self.level)
        unet: Any = drawer.diffusion.parts.get("unet", like=read)
        with torch.no_grad(), counted_rows(unet) as rows, attention_in_region(unet, masks) as shares:
            at = torch.tensor(time, device=latents.device)
            unet(a * latents + s * noise, at, encoder_hidden_states=conditioning)
        if not shares:
            raise ModelError(f"relevance=attention needs cross-attention, the U-Net of {mllm.name} has none")
        share = torch.stack(shares).mean(0).to(conditioning)[..., None]
        empty = drawer.diffusion.uncond(like=read)
        cotangent = share * (conditioning - empty).detach()
        (gradients,) = torch.autograd.grad(conditioning, hidden, grad_outputs=cotangent)
        return Pulled(gradients, sum(rows) / len(generations))


@contextmanager
def attention_in_region(unet: nn.Module, masks: Tensor) -> Iterator[list[Tensor]]:
    """Read the cross-attention of a forward pass: the list gets, of each layer, the share (B, Q) of the
    region's attention that each position of the conditioning has, a mean over heads and pixels.

    Args:
        unet: A diffusers U-Net.
        masks: Regions, bool (B, H, W), of any size with the latents' aspect.
    """
    from diffusers.models.attention_processor import Attention

    shares: list[Tensor] = []

    def read(module: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        states, context = given[0], named.get("encoder_hidden_states")
        if context is not None:
            maps = attention_maps(module, states, context)
            region = shrink(masks, maps.shape[1]).to(maps)
            shares.append((maps * region[..., None]).sum(1) / region.sum(1, keepdim=True))

    with ExitStack() as stack:
        for module in unet.modules():
            if isinstance(module, Attention) and module.is_cross_attention:
                stack.callback(module.register_forward_pre_hook(read, with_kwargs=True).remove)
        yield shares


def attention_maps(module: Any, states: Tensor, context: Tensor) -> Tensor:
    """Attention (B, pixels, Q), averaged over heads, of a diffusers attention layer that reads `context`."""
    if module.norm_cross:
        context = module.norm_encoder_hidden_states(context)
    query = module.head_to_batch_dim(module.to_q(states))
    key = module.head_to_batch_dim(module.to_k(context))
    scores: Tensor = module.get_attention_scores(query, key)
    return scores.unflatten(0, (len(states), -1)).mean(1)


def shrink(masks: Tensor, pixels: int) -> Tensor:
    """Regions (B, H, W) at a resolution of so many pixels: the share of each pixel inside, (B, pixels)."""
    height, width = masks.shape[1:]
    rows = round((pixels * height / width) ** 0.5)
    return F.adaptive_avg_pool2d(masks[:, None].to(torch.float32), (rows, pixels // rows)).flatten(1)
