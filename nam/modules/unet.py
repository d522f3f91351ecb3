"""The picture generator: a latent diffusion U-Net conditioned on the CLIP text tower."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from nam.mllm.diffusion import STATISTICS_FILE
from nam.mllm.parts import freeze, read_pretrained, read_tokenizer
from nam.modules.part import Part, save_half, start
from nam.world.tokenizer import encode_captions


class UNetPart(Part):
    """Trains diffusers' UNet2DConditionModel with v-prediction and classifier-free guidance.

    model, scheduler: arguments of UNet2DConditionModel and DPMSolverMultistepScheduler. weights_dir: holds
    the trained `clip`, frozen here. drop_caption: share of samples whose caption is made the empty one.
    start_from: a weights folder whose U-Net is trained on.

    Batches hold raw latents (B, C, h, w) and a caption's input_ids and attention_mask (B, 16). Latents are
    normalised per channel by the statistics of `statistics_samples` samples, saved with the weights.
    """

    alphas: Tensor
    empty_ids: Tensor
    empty_mask: Tensor
    latent_mean: Tensor
    latent_std: Tensor

    def __init__(
        self,
        *,
        model: dict[str, Any],
        scheduler: dict[str, Any],
        weights_dir: str,
        drop_caption: float = 0.1,
        statistics_samples: int = 1024,
        start_from: str | None = None,
        **optimiser: Any,
    ) -> None:
        super().__init__(**optimiser)
        from diffusers import DPMSolverMultistepScheduler, UNet2DConditionModel
        from transformers import CLIPTextModel

        folder = Path(weights_dir) / "clip"
        self.text: Any = freeze(read_pretrained(CLIPTextModel, folder, torch.float32))
        self.unet = start(UNet2DConditionModel(**model), start_from=start_from, name="unet")
        self.scheduler = cast(Any, DPMSolverMultistepScheduler(**scheduler))
        self.drop_caption, self.statistics_samples = drop_caption, statistics_samples
        ids, mask = encode_captions(read_tokenizer(folder), [""])
        channels = self.unet.config["in_channels"]
        self.register_buffer("alphas", self.scheduler.alphas_cumprod.float())
        self.register_buffer("empty_ids", ids)
        self.register_buffer("empty_mask", mask)
        self.register_buffer("latent_mean", torch.zeros(channels))
        self.register_buffer("latent_std", torch.zeros(channels))  # zeros: not measured yet

    def train(self, mode: bool = True) -> UNetPart:
        super().train(mode)
        self.text.eval()
        return self

    def on_fit_start(self) -> None:
        if self.latent_std.any():
            return  # restored from a checkpoint
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        sample = data.make(np.random.default_rng([data.seed, 2]), self.statistics_samples, "train")["latents"]
        self.latent_mean.copy_(sample.mean(dim=(0, 2, 3)))
        self.latent_std.copy_(sample.std(dim=(0, 2, 3)))

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        mean, std = self.latent_mean[:, None, None], self.latent_std[:, None, None]
        latents = (batch["latents"] - mean) / std
        states = self.condition(batch["input_ids"], batch["attention_mask"])
        time = torch.randint(len(self.alphas), (len(latents),), device=latents.device)
        noise = torch.randn_like(latents)
        signal, sigma = (
            self.alphas[time].sqrt()[:, None, None, None],
            (1 - self.alphas[time]).sqrt()[:, None, None, None],
        )
        velocity = signal * noise - sigma * latents  # Salimans & Ho 2022
        out = self.unet(signal * latents + sigma * noise, time, encoder_hidden_states=states).sample
        error = (out - velocity).square().mean(dim=(1, 2, 3))
        early = time >= 600  # where it is decided what is drawn
        return {"loss": error.mean(), "early": error[early].mean() if early.any() else error.mean()}

    def condition(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Text states (B, 16, E) of captions; in training a share of them is made the empty caption."""
        if self.training:
            drop = torch.rand(len(input_ids), 1, device=input_ids.device) < self.drop_caption
            input_ids = torch.where(drop, self.empty_ids, input_ids)
            attention_mask = torch.where(drop, self.empty_mask, attention_mask)
        with torch.no_grad():
            states: Tensor = self.text(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return states

    def export(self, folder: Path) -> None:
        save_half(self.unet, folder / "unet")
        self.scheduler.save_pretrained(folder / "scheduler")
        statistics = {"latent_mean": self.latent_mean.tolist(), "latent_std": self.latent_std.tolist()}
        (folder / "unet" / STATISTICS_FILE).write_text(json.dumps(statistics, indent=2) + "\n")
