"""From hidden states at signal tokens to what they announce, differentiable from end to end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from nam.errors import ConfigError, ModelError
from nam.mllm.diffusion import Diffusion
from nam.mllm.mapper import GILLMapper
from nam.types import DrawSettings, Medium

if TYPE_CHECKING:
    from nam.mllm.base import MLLM


@dataclass(frozen=True, eq=False)
class Drawer:
    """What draws one medium: a mapper and a generator.

    Attributes:
        mapper: From hidden states at the signal tokens to the generator's conditioning.
        diffusion: The generator.
        embeds: Gives the input embeddings of the signal tokens, (P, H).
    """

    mapper: GILLMapper
    diffusion: Diffusion
    embeds: Callable[[], Tensor]

    def conditioning(self, hidden: Tensor, embeds: Tensor | None = None) -> Tensor:
        """The generator's conditioning (B, Q, E), on its device.

        Args:
            hidden: Last hidden states at the signal tokens, (B, P, H).
            embeds: Input embeddings of the signal tokens, (B, P, H) or (P, H); None for the model's.
        """
        given = self.embeds() if embeds is None else embeds
        return self.diffusion.parts.place(self.mapper(hidden, given))

    def render(
        self,
        hidden: Tensor,
        noise: Tensor,
        settings: DrawSettings,
        *,
        grad_steps: int | None = None,
        checkpoint: bool = False,
    ) -> Tensor:
        """Pixels (B, 3, H, W) of last hidden states (B, P, H): mapper, denoising, decoder; of a sound its
        spectrogram (B, 1, H, W).

        The differentiable path: with gradients enabled, pixels can be differentiated by `hidden`. 0 is black,
        1 is white, and values are not clipped. See `nam.mllm.sampler.denoise` for the options.
        """
        cond = self.conditioning(hidden)
        latents = self.diffusion.sample(cond, noise, settings, grad_steps=grad_steps, checkpoint=checkpoint)
        return self.diffusion.decode(latents)

    def require_sampler(self, settings: DrawSettings) -> None:
        """Raise ConfigError unless the sampler is the one that drew by these settings."""
        sampler = type(self.diffusion.scheduler).__name__
        if sampler != settings.sampler:
            raise ConfigError(
                f"the picture was drawn by {settings.sampler}, the model's sampler is now {sampler}: "
                "set mllm.sampler to the one that drew it"
            )


def drawer_of(mllm: MLLM, medium: Medium = "image") -> Drawer | None:
    """What draws pictures, or another medium, by diffusion; None where the model has no such thing."""
    found: Drawer | None = getattr(mllm, "drawers", {}).get(medium)
    return found


def require_drawer(mllm: MLLM, medium: Medium = "image", *, purpose: str) -> Drawer:
    """What draws pictures, or another medium, by diffusion.

    Args:
        mllm: The model.
        medium: What is to be drawn.
        purpose: What needs it, as the error begins.

    Raises:
        ModelError: the model has no such thing.
    """
    found = drawer_of(mllm, medium)
    if found is None:
        what = "" if medium == "image" else f" {medium}"
        raise ModelError(f"{purpose} needs a model that draws{what} by diffusion, {mllm.name} does not")
    return found
