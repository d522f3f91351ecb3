"""Drawn regions, and what ablating a neuron truly does to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from nam.data.prompts import ScenePrompts
from nam.errors import InputError
from nam.hooks import Intervention, Recorder
from nam.hooks.sites import Visit
from nam.mllm.gill import GILL
from nam.relevance.base import relevance_of
from nam.segmenter.scenes import SceneSegmenter
from nam.types import DrawSettings, Generation, Neuron

_BATCH = 16


@dataclass(frozen=True, eq=False)
class Region:
    """A concept in a picture that the model drew: `mask` is bool (H, W)."""

    id: str
    generation: Generation
    mask: Tensor

    @property
    def hidden(self) -> Tensor:
        """Last hidden states at the [IMG] positions, (P, H)."""
        return cast(Tensor, self.generation.hidden)


@dataclass(frozen=True, eq=False)
class Effects:
    """What N ablations change.

    Attributes:
        hidden: Hidden states at the [IMG] positions, (N, P, H).
        signed: Sum of the region's pixels and colours, (N,): the change of P_M.
        unsigned: Sum of the absolute changes of its pixels and colours, (N,).
    """

    hidden: Tensor
    signed: Tensor
    unsigned: Tensor


def draw_regions(mllm: GILL, segmenter: SceneSegmenter, *, count: int, split: str, seed: int) -> list[Region]:
    """Things drawn alone and beside another thing, as many of each, in a seeded order; what is not found in
    its picture is left out.

    Raises:
        InputError: nothing was found.
    """
    prompts = ScenePrompts(draw=1, draw_two=1, draw_riddle=0, riddle=0, caption=0, split=split, seed=seed)
    order = np.random.default_rng(seed).permutation(len(prompts))[:count]
    samples = [prompts[int(index)].sample for index in order]
    regions = []
    for start in range(0, len(samples), _BATCH):
        part = samples[start : start + _BATCH]
        drawn = mllm.generate_batch(part, draw=True)
        images = [generation.image for generation in drawn if generation.image is not None]
        masks = segmenter.segment(images, [sample.concept for sample in part if sample.concept is not None])
        for sample, generation, mask in zip(part, drawn, masks, strict=True):
            if not mask.empty:
                regions.append(Region(sample.id, generation, torch.from_numpy(mask.pixels)))
    if not regions:
        raise InputError(f"none of {count} pictures shows what was asked for")
    return regions


def ablated(mllm: GILL, region: Region, *, count: int, seed: int) -> Effects:
    """Set single neurons to zero at the [IMG] positions, and draw again through the whole sampler with the
    same noise. The neurons are drawn, by the seed, from those that are active at some [IMG] position."""
    neurons = active_neurons(mllm, region.generation)
    chosen = np.random.default_rng(seed).permutation(len(neurons))[:count]
    with torch.no_grad():
        before = _replayed(mllm, region.generation, [None])
        after = _replayed(mllm, region.generation, [neurons[int(index)] for index in chosen])
        pixels = _drawn(mllm, region.generation, torch.cat([before, after]))
    inside = (pixels[1:] - pixels[:1]) * region.mask.to(pixels)
    return Effects(after - before, inside.sum((1, 2, 3)), inside.abs().sum((1, 2, 3)))


def active_neurons(mllm: GILL, generation: Generation) -> list[Neuron]:
    """The neurons whose activation is not zero at every [IMG] position."""
    recorder = Recorder(mllm, where=[list(generation.spans.img)])
    with torch.no_grad():
        mllm.replay([generation], record=recorder)
    activations = recorder.recorded[0].activations
    return [Neuron(layer, unit) for layer, unit in activations.ne(0).any(1).nonzero().tolist()]


def predicted(gradient: Tensor, hidden: Tensor, effects: Effects) -> tuple[Tensor, Tensor]:
    """What a gradient (P, H) at hidden states (P, H) says of ablations that change them by d: <gradient, d>
    for the signed effects, and <R, |d|> with the unsigned relevance R for the unsigned ones; (N,) each."""
    change = effects.hidden.double().cpu()
    unsigned = relevance_of(hidden, gradient).double()
    return (change * gradient.double()).sum((1, 2)), (change.abs() * unsigned).sum((1, 2))


def _replayed(mllm: GILL, generation: Generation, neurons: Sequence[Neuron | None]) -> Tensor:
    """Last hidden states at the [IMG] positions, (N, P, H), each with one neuron (or none) silent there."""
    found = []
    for start in range(0, len(neurons), _BATCH):
        part = neurons[start : start + _BATCH]

        def silence(visit: Visit, part: Sequence[Neuron | None] = part) -> Tensor:
            values = visit.values.clone()
            for entry, row in enumerate(visit.rows):
                neuron = part[row]
                if neuron is not None and neuron.layer == visit.layer:
                    values[entry, neuron.unit] = 0
            return values

        positions = [list(generation.spans.img)] * len(part)
        with Intervention(mllm, change=silence, where=positions):
            replayed = mllm.replay([generation] * len(part))
        first = replayed.offsets[0] + generation.spans.img.start
        found.append(replayed.hidden[:, first : first + len(generation.spans.img)])
    return torch.cat(found)


def _drawn(mllm: GILL, generation: Generation, hidden: Tensor) -> Tensor:
    settings = cast(DrawSettings, generation.drawn)
    noise = mllm.diffusion.noise([generation.seed], like=hidden)
    parts = [
        mllm.drawers["image"].render(part, noise.expand(len(part), -1, -1, -1), settings)
        for part in hidden.split(_BATCH)
    ]
    return torch.cat(parts)
