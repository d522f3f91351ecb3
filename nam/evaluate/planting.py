"""How a neuron is built: what it reads, so that it fires where it should, and what it writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from nam.errors import ModelError
from nam.evaluate.ground import Aim, Ground, Seen, first_linear, see
from nam.types import Modality, Neuron, NeuronSet

if TYPE_CHECKING:
    from nam.mllm.base import MLLM

#: The part of a planted neuron. An "indirect" one writes what its "relay" in a later layer reads, and nothing
#: along the target; the relay writes the target.
Role = Literal["writer", "indirect", "relay", "silent", "decoy"]

#: First layer of a writer: what the inputs of the first FFN tell of a word that is yet to come is little.
LOWEST = 1

#: Added to the inputs' covariance, as a share of its mean eigenvalue: a detector must not hang on directions
#: in which the positions at hand just happen not to differ.
RIDGE = 0.01

#: How much a silent neuron fires, and how much an indirect one writes, in units of the neuron of its layer
#: that does most of it: the first outshines all, the second is read by its relay and disturbs little else.
OUTSHINE, WHISPER = 1.5, 0.5

#: Strength of what a decoy would write, if it fired for the concept.
DECOY = 1.0


class Unfit(ModelError):
    """A neuron cannot be built as planned; with other layers or another direction it may."""


@dataclass(frozen=True)
class Plan:
    """A neuron to be built: see `nam.evaluate.planted.PlantedNeuron`.

    Attributes:
        number: Tells plans apart.
        reads: Of a relay, the indirect writer that it reads.
    """

    number: int
    modality: Modality
    role: Role
    strength: float
    layer: int
    reads: Plan | None = None


def make_plans(
    modality: Modality,
    layers: int,
    roles: Mapping[Role, Sequence[float]],
    *,
    first: int,
    rng: np.random.Generator,
) -> list[Plan]:
    """What is to be built for one modality, in which layers.

    Args:
        modality: Which.
        layers: Of the model.
        roles: The strengths of each role; an "indirect" one is given its relay.
        first: Number of the first plan.
        rng: Deals out the layers.
    """
    plans: list[Plan] = []

    def add(role: Role, strength: float, layer: int, reads: Plan | None = None) -> Plan:
        plans.append(Plan(first + len(plans), modality, role, strength, layer, reads))
        return plans[-1]

    for role, strengths in roles.items():
        if role == "writer":
            spread = np.linspace(min(LOWEST, layers - 1), layers - 1, len(strengths)).round().astype(int)
            where = rng.permutation(spread).tolist()
        else:
            stop = layers // 2 if role == "indirect" else layers
            where = rng.integers(stop, size=len(strengths)).tolist()
        for strength, layer in zip(strengths, where, strict=True):
            plan = add(role, strength, layer)
            if role == "indirect":
                add("relay", strength, int(rng.integers(layers // 2, layers)), reads=plan)
    return plans


def plant_layer(
    mllm: MLLM,
    layer: int,
    plans: Sequence[Plan],
    *,
    ground: Ground,
    earlier: Mapping[Plan, Neuron],
    rng: np.random.Generator,
) -> dict[Plan, Neuron]:
    """Build neurons into one layer, in place of its quietest, and return where they are.

    Args:
        mllm: Is changed.
        layer: From 0.
        plans: Of this layer.
        ground: Of all modalities.
        earlier: What was built into earlier layers.
        rng: Draws what indirect writers write and decoys read.

    Raises:
        ModelError: the FFN is of another make or too narrow.
        Unfit: a neuron cannot be built.
    """
    if not plans:
        return {}
    site = mllm.ffn_sites[layer]
    first = first_linear(mllm, site)
    seen, sizes = see(mllm, layer, ground), site.value_vectors.detach().double().cpu().norm(dim=0)
    quietest = (seen.activations.abs().amax(0) * sizes).argsort(stable=True).tolist()
    if len(quietest) < len(plans):
        raise ModelError(f"layer {layer} has {len(quietest)} neurons, too few to plant {len(plans)}")
    placed = {plan: Neuron(layer, unit) for plan, unit in zip(plans, quietest, strict=False)}
    with torch.no_grad():
        for plan, neuron in placed.items():
            aim, silenced = ground.aims[plan.modality], None
            if plan.reads is not None:
                silenced = see(mllm, layer, ground, without=NeuronSet.of([earlier[plan.reads]]))
            height = _height(plan, aim, seen)
            row, bias = _reading(plan, aim, seen, height=height, silenced=silenced, rng=rng)
            first.weight[neuron.unit], first.bias[neuron.unit] = row.to(first.weight), bias
        fires = see(mllm, layer, ground)
        for plan, neuron in placed.items():
            aim = ground.aims[plan.modality]
            rows = fires.rows(aim.there)
            activations = fires.activations[rows, neuron.unit]
            if plan.role == "decoy":  # it writes what a writer would that fires as it does elsewhere
                activations = torch.full_like(activations, _height(plan, aim, seen))
            loudest = float((aim.weights @ (seen.activations[rows].abs() * sizes)).max())
            value = _writing(plan, aim, activations, loudest=loudest, rng=rng)
            site.linear.weight[:, neuron.unit] = value.to(site.linear.weight)
    return placed


def _height(plan: Plan, aim: Aim, seen: Seen) -> float:
    """How strongly a neuron is to fire: like an average firing one of its layer, or more than any."""
    means = aim.weights @ seen.activations[seen.rows(aim.there)]
    if not bool((means > 0).any()):
        raise Unfit(f"no neuron of layer {plan.layer} fires at the {plan.modality} targets")
    return float(OUTSHINE * means.max() if plan.role == "silent" else means[means > 0].mean())


def _reading(
    plan: Plan, aim: Aim, seen: Seen, *, height: float, silenced: Seen | None, rng: np.random.Generator
) -> tuple[Tensor, float]:
    """Row (H,) and bias of the first linear."""
    there, elsewhere = aim.there, aim.elsewhere
    if plan.role == "decoy":
        choice = aim.decoys[rng.integers(len(aim.decoys))]
        if plan.modality == "text":
            choice = (choice[rng.integers(len(choice))],)
        there, elsewhere = choice, (*aim.there, *(key for key in aim.elsewhere if key not in choice))
    against = None if silenced is None else silenced.inputs[silenced.rows(aim.there)]
    inputs = seen.inputs[seen.rows(there)], seen.inputs[seen.rows(elsewhere)]
    return detector(*inputs, against=against, height=height)


def detector(
    there: Tensor, elsewhere: Tensor, *, height: float, against: Tensor | None = None
) -> tuple[Tensor, float]:
    """A row (H,) and a bias whose sum is `height` for the mean input there, and negative elsewhere.

    The row is Fisher's linear discriminant. It crosses 0 halfway between its mean there and its highest
    elsewhere; where they overlap, halfway between the two means.

    Args:
        there, elsewhere: Inputs, float64 (n, H) and (m, H).
        height: Above 0.
        against: Inputs (k, H) from which alone those there are to be told; elsewhere is then passed over as
            far as that allows. None: from those elsewhere.

    Raises:
        Unfit: the inputs do not differ.
    """
    against = elsewhere if against is None else against
    mean, other = there.mean(0), against.mean(0)
    spread = torch.cat([part - part.mean(0) for part in (there, against, elsewhere)])
    covariance = spread.T @ spread / len(spread)
    ridge = RIDGE * covariance.diagonal().mean().clamp(min=torch.finfo(covariance.dtype).tiny)
    row = torch.linalg.solve(covariance + ridge * torch.eye(len(mean), dtype=mean.dtype), mean - other)
    peak, most = float(mean @ row), float((torch.cat([against, elsewhere]) @ row).max())
    zero = (peak + (most if most < peak else float(other @ row))) / 2
    if not peak > zero:
        raise Unfit("nothing tells the FFN's inputs at the target's positions from those elsewhere")
    return row * (height / (peak - zero)), -zero * height / (peak - zero)


def _writing(
    plan: Plan, aim: Aim, activations: Tensor, *, loudest: float, rng: np.random.Generator
) -> Tensor:
    """The value vector, float64 (H,).

    Args:
        plan: What for.
        aim: What it writes along.
        activations: At the target's positions, (n,).
        loudest: The largest mean norm of what another neuron of the layer writes there.
        rng: Draws what an indirect writer writes.
    """
    along = aim.weights @ aim.directions
    if plan.role == "silent":
        return torch.zeros_like(along)
    if plan.role == "indirect":
        vector, wanted = _apart_from(aim.directions, rng), WHISPER * loudest
        gets = float(aim.weights @ activations)
    else:
        vector = along
        wanted = (DECOY if plan.role == "decoy" else plan.strength) * aim.unit
        gets = float(aim.weights @ (activations * (aim.directions @ along)))
    if not gets > 0:
        raise Unfit(
            f"a {plan.role} planted into layer {plan.layer} does not fire where it should, or the "
            f"{plan.modality} targets have no direction in common: give other contexts"
        )
    return vector * (wanted / gets)


def _apart_from(directions: Tensor, rng: np.random.Generator) -> Tensor:
    """A random unit vector (H,) without a part along directions (n, H): their first H / 2 principal axes."""
    axes = torch.linalg.svd(directions, full_matrices=False).Vh[: directions.shape[1] // 2]
    vector = torch.from_numpy(rng.standard_normal(directions.shape[1]))
    vector -= axes.T @ (axes @ vector)
    return torch.nn.functional.normalize(vector, dim=0)
