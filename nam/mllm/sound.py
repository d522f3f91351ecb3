"""Sounds by diffusion: AudioLDM's parts (Liu et al. 2023), conditioned on one embedding of CLAP's kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn

from nam.mllm.config import GillConfig, read_json
from nam.mllm.diffusion import Diffusion
from nam.mllm.hub import Folder
from nam.mllm.parts import Reader, read_pretrained, read_tokenizer
from nam.mllm.pictures import to_picture
from nam.types import Medium, Sound

if TYPE_CHECKING:
    from PIL.Image import Image

    from nam.mllm.nextgpt_config import NextGPTConfig


class SoundDiffusion(Diffusion):
    """A latent diffusion model of spectrograms, and a vocoder that makes them heard.

    Its picture is the log-mel spectrogram (B, 1, tones, time): time to the right, high tones above, in the
    vocoder's scale. A time range is a region of whole columns.
    """

    medium: ClassVar[Medium] = "audio"

    @classmethod
    def _readers(cls, config: GillConfig, folder: Folder) -> dict[str, Reader]:
        return {
            **super()._readers(config, folder),
            "text_tower": partial(_read_clap, folder, config.text_tower),
            "vocoder": partial(_read_vocoder, folder),
        }

    def _shape(self, unet_config: Mapping[str, Any]) -> tuple[int, ...]:
        vocoder = read_json(self.folder / "vocoder" / "config.json")
        scale = 2 ** (len(read_json(self.folder / "vae" / "config.json")["block_out_channels"]) - 1)
        seconds = cast("NextGPTConfig", self.config).audio_seconds
        steps = seconds * vocoder["sampling_rate"] / math.prod(vocoder["upsample_rates"])
        return unet_config["in_channels"], math.ceil(int(steps) / scale), vocoder["model_in_dim"] // scale

    def network(self, *, like: Tensor) -> Callable[..., Any]:
        unet = self.parts.get("unet", like=like)

        def call(latents: Tensor, time: Tensor, encoder_hidden_states: Tensor) -> Any:
            return unet(latents, time, encoder_hidden_states=None, class_labels=encoder_hidden_states[:, 0])

        return call

    def _empty_caption(self, like: Tensor) -> Tensor:
        tokenizer = read_tokenizer(self.folder / (self.config.text_tokenizer or self.config.text_tower))
        ids = tokenizer("", return_tensors="pt")["input_ids"].to(like.device)
        embeds: Tensor = self.parts.get("text_tower", like=like)(input_ids=ids).text_embeds
        return nn.functional.normalize(embeds, dim=-1)[:, None]

    def decode(self, latents: Tensor) -> Tensor:
        """Log-mel spectrograms (B, 1, tones, time) of normalised latents (B, C, time, tones)."""
        latents = self.parts.place(latents)
        vae = self.parts.get("vae", like=latents)
        mel: Tensor = vae.decode(latents / vae.config["scaling_factor"]).sample
        return mel.transpose(2, 3).flip(2)

    def picture(self, pixels: Tensor) -> Image:
        """The spectrogram in grey: its lowest value black, its highest white."""
        low, high = pixels.aminmax()
        return to_picture(((pixels - low) / (high - low).clamp(min=1e-6)).expand(3, -1, -1))

    def extras(self, pixels: Tensor) -> list[dict[str, Any]]:
        """The sounds, by the vocoder."""
        vocoder = self.parts.get("vocoder", like=pixels)
        rate = vocoder.config.sampling_rate
        length = int(cast("NextGPTConfig", self.config).audio_seconds * rate)
        waveforms = vocoder(pixels.flip(2).transpose(2, 3)[:, 0])[:, :length].float().cpu()
        return [{"sound": Sound(waveform.clone(), rate)} for waveform in waveforms]


def _read_clap(folder: Folder, part: str, dtype: torch.dtype) -> nn.Module:
    from transformers import ClapTextModelWithProjection

    return read_pretrained(ClapTextModelWithProjection, folder / part, dtype)


def _read_vocoder(folder: Folder, dtype: torch.dtype) -> nn.Module:
    from transformers import SpeechT5HifiGan

    return read_pretrained(SpeechT5HifiGan, folder / "vocoder", dtype)
