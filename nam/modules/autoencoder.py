"""The autoencoder of the picture generator: 64x64 pictures to 16x16 latents and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nam.modules.part import Part, save_half, start


class AutoencoderPart(Part):
    """Trains diffusers' AutoencoderTiny on pixels.

    The loss is the squared error; plus, times `edge_weight`, the absolute error of pixels and of neighbour
    differences, which keeps outlines crisp; plus, times `colour_weight`, the squared error of 4x4 means,
    which keeps small fills in their colour. `model` holds AutoencoderTiny's own arguments.

    start_from: a weights folder whose autoencoder is trained on. train_encoder: without it the encoder stays
    as it is, and so do the latents that a trained U-Net knows.
    """

    def __init__(
        self,
        *,
        model: dict[str, Any],
        edge_weight: float = 0.1,
        colour_weight: float = 1.0,
        start_from: str | None = None,
        train_encoder: bool = True,
        **optimiser: Any,
    ) -> None:
        super().__init__(**optimiser)
        from diffusers import AutoencoderTiny

        vae = AutoencoderTiny(**model)
        initialise(vae)
        self.vae = start(vae, start_from=start_from, name="vae")
        self.vae.to(memory_format=torch.channels_last)
        self.vae.encoder.requires_grad_(train_encoder)
        self.edge_weight, self.colour_weight = edge_weight, colour_weight

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        pixels = batch["pixels"].contiguous(memory_format=torch.channels_last)
        out = self.vae(pixels).sample
        squared, absolute = F.mse_loss(out, pixels), F.l1_loss(out, pixels)
        across, down = (F.l1_loss(out.diff(dim=d), pixels.diff(dim=d)) for d in (2, 3))
        psnr = 10 * torch.log10(4 / F.mse_loss(out.detach().clamp(-1, 1), pixels))  # the range is 2 wide
        colours = F.mse_loss(F.avg_pool2d(out, 4), F.avg_pool2d(pixels, 4))
        loss = squared + self.edge_weight * (absolute + across + down) + self.colour_weight * colours
        return {"loss": loss, "colours": colours, "l1": absolute, "psnr_db": psnr}

    def export(self, folder: Path) -> None:
        save_half(self.vae, folder / "vae")


def initialise(vae: Any, *, residual: float = 0.1) -> None:
    """He initialisation with small residual branches.

    AutoencoderTiny has no normalisation, and with PyTorch's default its signal fades from layer to layer:
    after 160 small batches this start is 4 dB ahead.
    """
    from diffusers.models.autoencoders.vae import AutoencoderTinyBlock

    for module in vae.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    with torch.no_grad():
        for module in vae.modules():
            if isinstance(module, AutoencoderTinyBlock):
                module.conv[-1].weight.mul_(residual)
        vae.encoder.layers[-1].weight.mul_(0.7)
        vae.decoder.layers[-1].weight.mul_(0.3)
