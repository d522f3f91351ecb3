"""What neurons are planted on: where they are to fire, what they are to write, what an FFN reads there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from nam.errors import InputError, ModelError
from nam.hooks import Intervention, SiteHooks, Visit, zero
from nam.reduction.contributions import contributions_of
from nam.types import Generation, Modality, NeuronSet

if TYPE_CHECKING:
    from nam.mllm.base import MLLM
    from nam.mllm.ffn import FfnSite
    from nam.reduction.base import Context

#: Number of a generation, and position in it.
Key = tuple[int, int]

_BATCH = 16


@dataclass(frozen=True, eq=False)
class Aim:
    """Where the neurons of one modality are to fire, and what they are to write.

    Attributes:
        there: The target's positions in all contexts, n of them.
        weights: Of each, float64 (n,), 1 together: contexts count alike, and the positions of one alike.
        elsewhere: All positions without the concept.
        decoys: Where a decoy may fire instead: a choice for each other answer that has any.
        directions: Of the targets before the final norm, float64 (n, H) on the CPU.
        unit: The largest direct contribution of a neuron of the model.
    """

    there: tuple[Key, ...]
    weights: Tensor
    elsewhere: tuple[Key, ...]
    decoys: tuple[tuple[Key, ...], ...]
    directions: Tensor
    unit: float


@dataclass(frozen=True, eq=False)
class Ground:
    """All that is looked at while planting: answers, each once, and an aim for each modality."""

    generations: tuple[Generation, ...]
    aims: Mapping[Modality, Aim]


def find_ground(contexts: Sequence[Context], others: Sequence[Generation]) -> Ground:
    """The ground for contexts of one concept, and answers without it.

    Raises:
        InputError: no neuron writes along a target, or no other answer has what a decoy could fire for.
    """
    answers = {id(one): one for one in (*(context.generation for context in contexts), *others)}
    generations = tuple(answers.values())
    number = {key: row for row, key in enumerate(answers)}
    keys = [(row, at) for row, one in enumerate(generations) for at in range(len(one.token_ids))]
    aims: dict[Modality, Aim] = {}
    for modality in dict.fromkeys(context.target.modality for context in contexts):
        mine = [context for context in contexts if context.target.modality == modality]
        there = tuple((number[id(c.generation)], at) for c in mine for at in c.target.positions)
        concept = set(there)
        if modality == "image":  # what these answers draw is the concept, whether it is a target or not
            concept |= {(number[id(c.generation)], at) for c in contexts for at in c.generation.spans.img}
        choices = ((number[id(one)], _like_a_target(one, modality)) for one in others)
        decoys = tuple(tuple((row, at) for at in span) for row, span in choices if span)
        if not decoys:
            raise InputError(f"no other answer has positions like those of the {modality} targets")
        elsewhere = tuple(key for key in keys if key not in concept)
        aims[modality] = _aim(mine, there=there, elsewhere=elsewhere, decoys=decoys)
    return Ground(generations, aims)


def _aim(
    contexts: Sequence[Context],
    *,
    there: tuple[Key, ...],
    elsewhere: tuple[Key, ...],
    decoys: tuple[tuple[Key, ...], ...],
) -> Aim:
    directions = [c.directions(norm="ignore" if c.stream is None else "fold") for c in contexts]
    contributions = contributions_of(contexts, directions)
    unit = float(torch.stack([one.mean(1) for one in contributions]).mean(0).abs().max())
    if not unit > 0:
        raise InputError("no neuron of the model writes along the target: strengths have no unit")
    weights = [torch.full((len(one),), 1 / (len(one) * len(contexts))) for one in directions]
    return Aim(
        there=there,
        weights=torch.cat(weights).double(),
        elsewhere=elsewhere,
        decoys=decoys,
        directions=torch.cat(directions).double().cpu(),
        unit=unit,
    )


def _like_a_target(generation: Generation, modality: Modality) -> range:
    """The [IMG] positions of an answer, or those whose forward passes predict its words."""
    spans = generation.spans
    if modality == "image":
        return range(spans.img.start, spans.img.stop)
    return range(max(spans.answer.start - 1, 0), spans.answer.stop - 1)


@dataclass(frozen=True, eq=False)
class Seen:
    """What the FFN of one layer reads and how its neurons fire, at every position of the ground.

    Attributes:
        place: Row of each position.
        inputs: float64 (T, H) on the CPU.
        activations: float64 (T, d) on the CPU.
    """

    place: Mapping[Key, int]
    inputs: Tensor
    activations: Tensor

    def rows(self, keys: Sequence[Key]) -> Tensor:
        """The rows of these positions, (n,)."""
        return torch.tensor([self.place[key] for key in keys])


def see(mllm: MLLM, layer: int, ground: Ground, *, without: NeuronSet | None = None) -> Seen:
    """Replay the ground's answers.

    Args:
        mllm: Now, with what has been planted already.
        layer: From 0.
        ground: The answers.
        without: Neurons that are ablated meanwhile.

    Raises:
        ModelError: as `first_linear`.
    """
    site = mllm.ffn_sites[layer]
    place: dict[Key, int] = {}
    parts: list[list[Tensor]] = [[], []]
    for start in range(0, len(ground.generations), _BATCH):
        some = ground.generations[start : start + _BATCH]
        ablated = nullcontext() if without is None else Intervention(mllm, change=zero, neurons=without)
        reads, fires = _Watch(mllm, layer, first_linear(mllm, site)), _Watch(mllm, layer, site.linear)
        with ablated, reads, torch.no_grad():
            mllm.replay(some, record=fires)
        for row, at in reads.keys:
            place[start + row, at] = len(place)
        for part, watch in zip(parts, (reads, fires), strict=True):
            part.extend(watch.values)
    return Seen(place, *(torch.cat(part) for part in parts))


def first_linear(mllm: MLLM, site: FfnSite) -> nn.Linear:
    """The linear that a plain FFN reads with: weight (d, H) and a bias.

    Raises:
        ModelError: the FFN is gated, or has no bias.
    """
    ffn = mllm.language_model.get_submodule(site.name.rpartition(".")[0])
    linear = getattr(ffn, "fc1", None)
    if not isinstance(linear, nn.Linear) or linear.bias is None or linear.out_features != site.width:
        raise ModelError(
            f"planting needs FFNs that read with a linear called fc1 with a bias, as OPT's do; layer "
            f"{site.layer} of {mllm.name} has {linear if linear is not None else 'none'}"
        )
    return linear


class _Watch(SiteHooks):
    """Keeps what one module reads at every position."""

    def __init__(self, mllm: MLLM, layer: int, module: nn.Module) -> None:
        super().__init__(mllm, where="all")
        self.layer, self.module = layer, module
        self.keys: list[Key] = []
        self.values: list[Tensor] = []

    def _modules(self) -> Sequence[tuple[int, nn.Module]]:
        return [(self.layer, self.module)]

    def _visit(self, visit: Visit) -> None:
        self.keys += zip(visit.rows, visit.positions, strict=True)
        self.values.append(visit.values.detach().double().cpu())
