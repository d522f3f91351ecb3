"""From a region of a drawn picture to the latents it was decoded from: the decoder, linearised."""

from __future__ import annotations

import torch
from torch import Tensor

from nam.mllm.diffusion import Diffusion

#: Pixels that are decoded at once, with a graph: a decoder's activations are far larger than its pictures.
AT_ONCE = 2**14


def region_in_latents(diffusion: Diffusion, latents: Tensor, masks: Tensor) -> Tensor:
    """dP_M/dx_0 at latents (B, C, h, w), or (B, C, F, h, w).

    Small pictures are decoded together, large ones one at a time.

    Args:
        diffusion: The generator.
        latents: The finished pictures'.
        masks: Regions, bool (B, H, W), none of them empty.
    """
    together = max(1, AT_ONCE // masks[0].numel())
    parts = zip(latents.split(together), masks.split(together), strict=True)
    return torch.cat([_slope(diffusion, *part) for part in parts])


def _slope(diffusion: Diffusion, latents: Tensor, masks: Tensor) -> Tensor:
    latents = latents.detach()
    if latents.ndim == 4:  # convolutions are faster where the channels of a pixel are side by side
        latents = latents.contiguous(memory_format=torch.channels_last)
    latents.requires_grad_()
    pixels = diffusion.decode(latents)
    region = masks.to(pixels)[:, None].expand_as(pixels)
    (slope,) = torch.autograd.grad(pixels, latents, grad_outputs=region)
    return slope
