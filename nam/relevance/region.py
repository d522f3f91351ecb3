"""From a region of a drawn picture to the latents it was decoded from: the decoder, linearised."""

from __future__ import annotations

import torch
from torch import Tensor

from nam.mllm.diffusion import Diffusion

#: Decoders without norms and attention: what is far from a pixel does not change it.
LOCAL = ("AutoencoderTiny",)


def region_in_latents(
    diffusion: Diffusion, latents: Tensor, masks: Tensor, *, margin: float | None = None
) -> Tensor:
    """dP_M/dx_0 at latents (B, C, h, w), or (B, C, F, h, w).

    One picture at a time, since a decoder's activations are far larger than the latents.

    Args:
        diffusion: The generator.
        latents: The finished pictures'.
        masks: Regions, bool (B, H, W), none of them empty.
        margin: What is decoded around a region, as a share of the picture's side, where the decoder is one of
            `LOCAL`; None for the whole picture, as of all others.
    """
    kind = type(diffusion.parts.get("vae", like=latents)).__name__
    if margin is None or kind not in LOCAL or latents.ndim != 4:
        parts = zip(latents.split(1), masks.split(1), strict=True)
        return torch.cat([_slope(diffusion, *part) for part in parts])
    slopes, cell = torch.zeros_like(latents), masks.shape[1] // latents.shape[2]
    for row, mask in enumerate(masks):
        rows, columns = (surroundings(mask.any(axis), cell=cell, margin=margin) for axis in (1, 0))
        part = mask[_times(rows, cell), _times(columns, cell)]
        slopes[row, :, rows, columns] = _slope(
            diffusion, latents[row : row + 1, :, rows, columns], part[None]
        )[0]
    return slopes


def surroundings(inside: Tensor, *, cell: int, margin: float) -> slice:
    """The cells along one side of a picture that lie around what is inside, bool (pixels,).

    Args:
        inside: At least one of them is.
        cell: Pixels of a cell.
        margin: Share of the side that is added before and behind.
    """
    found, length = inside.nonzero(), len(inside) // cell
    first, last = (int(end) // cell for end in (found.min(), found.max()))
    around = round(margin * length)
    return slice(max(0, first - around), min(length, last + 1 + around))


def _times(span: slice, cell: int) -> slice:
    return slice(span.start * cell, span.stop * cell)


def _slope(diffusion: Diffusion, latents: Tensor, masks: Tensor) -> Tensor:
    latents = latents.detach()
    if latents.ndim == 4:  # convolutions are faster where the channels of a pixel are side by side
        latents = latents.contiguous(memory_format=torch.channels_last)
    latents.requires_grad_()
    pixels = diffusion.decode(latents)
    region = masks.to(pixels)[:, None].expand_as(pixels)
    (slope,) = torch.autograd.grad(pixels, latents, grad_outputs=region)
    return slope
