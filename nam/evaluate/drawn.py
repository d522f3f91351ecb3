"""Probes of pictures: what the region of a concept loses, drawn again by the whole sampler, or by a proxy.

Both decode pixels from 0 (black) to 1 (white), not clipped, and give three effects:

    pixels    loss of the sum of the region's pixels over its colours, P_M: the quantity that relevance pulls
    change    mean |change| of the region's pixels, whichever way they go
    evidence  loss of a classifier's log-odds for the concept; outside the region it sees the plain picture
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nam.errors import ConfigError, InputError, nearest
from nam.evaluate.judge import Judge, log_odds, split_logits
from nam.mllm.drawer import Drawer, require_drawer
from nam.mllm.fingerprint import digest_of
from nam.relevance.draws import finished_latents, noise_schedule
from nam.relevance.levels import estimate_picture
from nam.types import DrawSettings, Generation
from nam.world.scene import NOUNS

if TYPE_CHECKING:
    from nam.mllm.base import MLLM
    from nam.reduction.ablated import Positions
    from nam.reduction.base import Context


@dataclass(frozen=True, eq=False)
class SoftEvidence:
    """The judge's log-odds for a noun of the scenes, without rounding to grey levels first: the loss of one
    neuron is often less than one.

    Attributes:
        judge: The classifier.
        noun: What is looked for.

    Raises:
        InputError: it is no such noun.
    """

    judge: Judge
    noun: str

    def __post_init__(self) -> None:
        if self.noun not in NOUNS:
            raise InputError(f"the judge knows no {self.noun!r} ({nearest(self.noun, NOUNS)})")

    def __call__(self, pixels: Tensor) -> Tensor:
        """Log-odds (B,) float32 for pictures (B, 3, H, W) from 0 to 1."""
        parameter = next(self.judge.model.parameters())
        logits = self.judge.model(pixel_values=(pixels.clamp(0, 1) * 2 - 1).to(parameter)).logits
        return log_odds(split_logits(logits)[0])[:, NOUNS.index(self.noun)]

    @cached_property
    def key(self) -> tuple[str, str]:
        """What tells it apart: noun and weights."""
        return self.noun, digest_of(self.judge.model)


@dataclass(frozen=True, kw_only=True, eq=False)
class PictureProbe:
    """Draws every picture again, from its own noise and with all of its steps.

    Attributes:
        region: Where the concept is, bool (H, W) of the picture's size.
        evidence: An independent classifier's; None to do without.
        batch: Pictures that are drawn together.
    """

    region: NDArray[np.bool_]
    evidence: SoftEvidence | None = None
    batch: int = 64
    positions: Positions = field(default="target", init=False)
    prefix: str = field(default="", init=False)

    @property
    def names(self) -> tuple[str, ...]:
        known = ("pixels", "change", "evidence") if self.evidence else ("pixels", "change")
        return tuple(f"{self.prefix}{name}" for name in known)

    @property
    def settings(self) -> tuple[object, ...]:
        region = zlib.crc32(np.packbits(self.region).tobytes())
        return (self.region.shape, region, self.evidence and self.evidence.key)

    @torch.no_grad()
    def __call__(self, context: Context, plain: Tensor, hidden: Tensor) -> Mapping[str, Tensor]:
        drawer = drawer_of_truth(context.mllm)
        cond = drawer.conditioning(plain[None])
        draw = self._redraw(drawer, context.generation, cond)
        before = draw(cond)
        parts = [self._compare(before, draw(drawer.conditioning(some))) for some in hidden.split(self.batch)]
        return {name: torch.cat([part[name] for part in parts]) for name in self.names}

    def _redraw(self, drawer: Drawer, generation: Generation, cond: Tensor) -> Callable[[Tensor], Tensor]:
        """Pixels (n, 3, H, W) for conditionings (n, Q, E); `cond` (1, Q, E) drew the picture."""
        settings = drawn_by(drawer, generation)
        noise = drawer.diffusion.noise([generation.seed], like=cond)

        def draw(conds: Tensor) -> Tensor:
            rows = noise.expand(len(conds), -1, -1, -1)
            return drawer.diffusion.decode(drawer.diffusion.sample(conds, rows, settings))

        return draw

    def _compare(self, before: Tensor, after: Tensor) -> dict[str, Tensor]:
        region = torch.from_numpy(self.region).to(before.device)
        if region.shape != before.shape[-2:] or not self.region.any():
            size = tuple(before.shape[-2:])
            raise InputError(f"expected a region in pictures of {size}, got {tuple(region.shape)}")
        lost = ((before - after) * region).double()
        found = {"pixels": lost.sum((1, 2, 3)), "change": lost.abs().sum((1, 2, 3)) / (3 * region.sum())}
        if self.evidence:
            shown = torch.where(region, after, before)
            found["evidence"] = (self.evidence(before) - self.evidence(shown)).to(lost)
        return {f"{self.prefix}{name}": values for name, values in found.items()}


@dataclass(frozen=True, kw_only=True, eq=False)
class LevelsProbe(PictureProbe):
    """A proxy of `PictureProbe`: a sampler of a few steps along the path of the picture that was drawn.

    At each level the U-Net reads the finished latent mixed with the picture's own noise, about where the
    sampler was (see `nam.relevance.levels`), moved by what the levels before it have changed; what changes of
    its guided estimate is taken on to the next level as DDIM does, and at the last added to the finished
    latent. U-Net evaluations for each neuron: one at the first level, two at each of the others.

    Attributes:
        levels: Shares of the noise schedule, from noise (1) towards the picture (0).
    """

    levels: tuple[float, ...] = (0.65, 0.25)
    prefix: str = field(default="proxy_", init=False)

    def __post_init__(self) -> None:
        falling = all(high > low for high, low in pairwise(self.levels))
        if not self.levels or not falling or not all(0 < level < 1 for level in self.levels):
            raise ConfigError(f"the proxy's levels must fall from below 1 to above 0, got {self.levels}")

    @property
    def settings(self) -> tuple[object, ...]:
        return (*super().settings, tuple(self.levels))

    def _redraw(self, drawer: Drawer, generation: Generation, cond: Tensor) -> Callable[[Tensor], Tensor]:
        diffusion, guidance = drawer.diffusion, drawn_by(drawer, generation).guidance
        finished = finished_latents([generation], like=cond)
        noise = diffusion.noise([generation.seed], like=cond)
        schedule = [noise_schedule(diffusion, level) for level in self.levels]

        def estimates(conds: Tensor, moved: list[Tensor] | None) -> list[Tensor]:
            """The guided estimate at each level; `moved`: the plain ones, from which a path is followed."""
            found: list[Tensor] = []
            shift = torch.zeros_like(finished)
            for index, (time, a, s) in enumerate(schedule):
                noised = a * (finished + shift) + s * noise
                rows = noised.expand(len(conds), -1, -1, -1)
                estimate = guidance * estimate_picture(diffusion, rows, time, a, s, conds)
                if guidance != 1:
                    empty = diffusion.uncond(like=conds).expand(len(noised), -1, -1)
                    without = estimate_picture(diffusion, noised, time, a, s, empty)
                    estimate = estimate - (guidance - 1) * without
                found.append(estimate)
                if moved is not None and index + 1 < len(schedule):
                    _, next_a, next_s = schedule[index + 1]
                    ratio = (next_s / next_a) / (s / a)
                    shift = (1 - ratio) * (estimate - moved[index]) + ratio * shift
            return found

        plain = estimates(cond, None)

        def draw(conds: Tensor) -> Tensor:
            return diffusion.decode(finished + estimates(conds, plain)[-1] - plain[-1])

        return draw


def drawer_of_truth(mllm: MLLM) -> Drawer:
    """What draws a model's pictures again. Raises ModelError where nothing does."""
    return require_drawer(mllm, purpose="the truth of pictures")


def drawn_by(drawer: Drawer, generation: Generation) -> DrawSettings:
    """How the picture was drawn.

    Raises:
        InputError: none was.
        ConfigError: the model has another sampler now.
    """
    if generation.medium != "image":
        raise InputError(f"the truth is known of pictures, not of {generation.medium}")
    settings = generation.drawn
    if settings is None or generation.latents is None:
        raise InputError(f"nothing was drawn: the answer {generation.text!r} has no picture")
    drawer.require_sampler(settings)
    return settings
