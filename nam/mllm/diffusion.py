"""The picture generator: U-Net, autoencoder and sampler behind a text conditioning."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from nam.checks import whole
from nam.errors import InputError, ModelError
from nam.mllm.config import GillConfig, read_json
from nam.mllm.hub import Folder, origin_of
from nam.mllm.parts import LazyParts, Reader, read_pretrained, read_tokenizer
from nam.mllm.pictures import to_picture
from nam.mllm.sampler import denoise, noise_of, read_scheduler, scheduler_settings
from nam.types import DrawSettings, Medium

if TYPE_CHECKING:
    from PIL.Image import Image

#: Autoencoder classes that a folder may hold.
AUTOENCODERS = ("AutoencoderTiny", "AutoencoderKL")

#: Beside the U-Net's weights: mean and standard deviation of each channel of the raw latents.
STATISTICS_FILE = "latent_statistics.json"

#: What CLIP's tokenizers call the first and the last token of a caption.
CAPTION_START, CAPTION_END = "<|startoftext|>", "<|endoftext|>"


class Diffusion(nn.Module):
    """A latent diffusion model of Stable Diffusion's make. Its parts are read when a picture is drawn.

    Args:
        config: Sizes, sampler and latent statistics.
        folder: Holds `scheduler/` and the text tower's tokenizer.
        readers: How to read "unet", "vae" and "text_tower".
        device: Where it stays, wherever the model around it goes; None: it goes with it.
        origins: Where each part is read from, and the scheduler.

    Attributes:
        medium: What it draws.
    """

    medium: ClassVar[Medium] = "image"

    def __init__(
        self,
        config: GillConfig,
        folder: Folder,
        readers: Mapping[str, Reader],
        *,
        device: str | torch.device | None = None,
        origins: Mapping[str, Path | str] | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.folder = folder
        self.parts = LazyParts(readers, device=device, origins=origins)
        self._scheduler: Any = None
        self._uncond: Tensor | None = None

    @classmethod
    def from_folder(
        cls, config: GillConfig, folder: Folder, *, device: str | torch.device | None = None
    ) -> Self:
        """A generator whose parts are in `folder`'s `unet/`, `vae/`, `scheduler/` and text tower."""
        readers = cls._readers(config, folder)
        places = {name: name for name in (*readers, "scheduler")} | {"text_tower": config.text_tower}
        origins = {name: origin_of(folder, place) for name, place in places.items()}
        return cls(config, folder, readers, device=device, origins=origins)

    @classmethod
    def _readers(cls, config: GillConfig, folder: Folder) -> dict[str, Reader]:
        return {
            "unet": partial(read_unet, folder, "UNet2DConditionModel"),
            "vae": partial(_read_autoencoder, folder, "vae"),
            "text_tower": partial(_read_text_tower, folder, config.text_tower),
        }

    @property
    def scheduler(self) -> Any:
        """The noise schedule and sampler (diffusers)."""
        if self._scheduler is None:
            self._scheduler = read_scheduler(self.folder / "scheduler", name=self.config.sampler)
        return self._scheduler

    def settings(self, *, steps: int | None = None, guidance: float | None = None) -> DrawSettings:
        """The settings of a picture; None stands for the model's default.

        Raises:
            InputError: a value that no picture can be drawn with.
        """
        steps = self.config.steps if steps is None else steps
        guidance = self.config.guidance if guidance is None else guidance
        scheduler = scheduler_settings(self.folder / "scheduler", name=self.config.sampler)
        most = scheduler["num_train_timesteps"]
        steps = whole("steps", steps, least=1, most=most)
        if isinstance(guidance, bool) or not isinstance(guidance, Real) or not 0 <= guidance <= 1000:
            raise InputError(f"guidance must be a number from 0 to 1000, got {guidance!r}")
        return DrawSettings(scheduler["_class_name"], steps, float(guidance))

    def uncond(self, *, like: Tensor) -> Tensor:
        """The text tower's states for the empty caption, (1, Q, E), where the parts are, in its dtype."""
        like = self.parts.place(like)
        if self._uncond is None:
            with torch.inference_mode(False), torch.no_grad():
                self._uncond = self._empty_caption(like)
        return self._uncond.to(like)

    def _empty_caption(self, like: Tensor) -> Tensor:
        folder = self.folder / (self.config.text_tokenizer or self.config.text_tower)
        tokenizer = read_tokenizer(folder)
        start, end = tokenizer.convert_tokens_to_ids([CAPTION_START, CAPTION_END])
        if tokenizer.unk_token_id in (start, end) and tokenizer.unk_token != CAPTION_END:
            raise ModelError(f"the tokenizer in {folder} has no {CAPTION_START} or no {CAPTION_END}")
        padding = self.config.num_clip_tokens - 2
        ids = torch.tensor([[start, end, *[tokenizer.pad_token_id] * padding]], device=like.device)
        mask = ids.new_tensor([[1, 1, *[0] * padding]]) if self.config.mask_captions else None
        tower = self.parts.get("text_tower", like=like)
        states: Tensor = tower(input_ids=ids, attention_mask=mask).last_hidden_state
        return states

    def noise(self, seeds: Sequence[int], *, like: Tensor) -> Tensor:
        """The noise that each seed's picture starts from, (B, C, h, w), where the parts are and in `like`'s
        dtype."""
        like = self.parts.place(like)
        return noise_of(seeds, self._shape(self.parts.get("unet", like=like).config)).to(like)

    def _shape(self, unet_config: Mapping[str, Any]) -> tuple[int, ...]:
        """Of the latents, without the batch."""
        size = unet_config["sample_size"]
        height, width = (size, size) if isinstance(size, int) else size
        return unet_config["in_channels"], height, width

    def network(self, *, like: Tensor) -> Callable[..., Any]:
        """The U-Net, called with latents, timestep and `encoder_hidden_states`."""
        unet: Callable[..., Any] = self.parts.get("unet", like=like)
        return unet

    def sample(
        self,
        cond: Tensor,
        noise: Tensor,
        settings: DrawSettings,
        *,
        grad_steps: int | None = None,
        checkpoint: bool = False,
    ) -> Tensor:
        """Normalised latents (B, C, h, w) for conditioning (B, Q, E); see `nam.mllm.sampler.denoise`."""
        cond, noise = self.parts.place(cond), self.parts.place(noise)
        return denoise(
            self.network(like=cond),
            self.scheduler,
            noise=noise,
            cond=cond,
            uncond=self.uncond(like=cond),
            steps=settings.steps,
            guidance=settings.guidance,
            grad_steps=grad_steps,
            checkpoint=checkpoint,
        )

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) of normalised latents; 0 is black, 1 is white, and values are not clipped."""
        latents = self.parts.place(latents)
        vae = self.parts.get("vae", like=latents)
        mean, std = self._statistics(vae, latents)
        pixels: Tensor = vae.decode(latents * std + mean).sample
        return pixels / 2 + 0.5

    def picture(self, pixels: Tensor) -> Image:
        """One of the pictures that `decode` gives, (3, H, W), for a reader."""
        return to_picture(pixels)

    def extras(self, pixels: Tensor) -> list[dict[str, Any]]:
        """What a `Generation` holds of each drawn thing (B, ...) beside its picture, by its attributes."""
        return [{} for _ in pixels]

    def encode(self, pixels: Tensor) -> Tensor:
        """Normalised latents (B, C, h, w) of pixels (B, 3, H, W) in [0, 1]; the mean where it is random."""
        pixels = self.parts.place(pixels)
        vae = self.parts.get("vae", like=pixels)
        mean, std = self._statistics(vae, pixels)
        encoded = vae.encode(pixels * 2 - 1)
        raw: Tensor = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
        return (raw - mean) / std

    def _stated_statistics(self) -> tuple[Sequence[float], Sequence[float]] | None:
        if self.config.latent_mean is not None and self.config.latent_std is not None:
            return self.config.latent_mean, self.config.latent_std
        path = self.folder / "unet" / STATISTICS_FILE
        if not path.is_file():
            return None
        saved = read_json(path)
        try:
            return saved["latent_mean"], saved["latent_std"]
        except KeyError as error:
            raise ModelError(f"{path} has no {error}") from error

    def _statistics(self, vae: Any, like: Tensor) -> tuple[Tensor, Tensor]:
        stated = self._stated_statistics()
        if stated is None:
            shift = vae.config.get("shift_factor") or 0.0
            return like.new_tensor(shift), like.new_tensor(1 / vae.config["scaling_factor"])
        channels = vae.config["latent_channels"]
        mean, std = (like.new_tensor(values) for values in stated)
        if mean.shape != (channels,) or std.shape != (channels,):
            raise ModelError(
                f"latent_mean and latent_std need a value for each of the autoencoder's {channels} channels, "
                f"got {mean.numel()} and {std.numel()}"
            )
        return mean[:, None, None], std[:, None, None]


def read_unet(folder: Folder, kind: str, dtype: torch.dtype) -> nn.Module:
    """The U-Net of a folder, as that class of diffusers."""
    import diffusers

    return read_pretrained(getattr(diffusers, kind), folder / "unet", dtype)


def _read_text_tower(folder: Folder, part: str, dtype: torch.dtype) -> nn.Module:
    from transformers import CLIPTextModel

    return read_pretrained(CLIPTextModel, folder / part, dtype)


def _read_autoencoder(folder: Folder, part: str, dtype: torch.dtype) -> nn.Module:
    import diffusers

    path = folder / part
    name = read_json(path / "config.json").get("_class_name")
    if name not in AUTOENCODERS:
        raise ModelError(f"{path}: expected one of {', '.join(AUTOENCODERS)}, got {name!r}")
    return read_pretrained(getattr(diffusers, name), path, dtype)
