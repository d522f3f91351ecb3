"""Planted neurons: into a copy of a model, neurons whose part in a concept is known because they were built.

What a method should find: neurons that write the concept, from strongly to weakly, in several layers, and
those that do so only through a later neuron that reads them. What it should pass over: neurons that fire for
the concept and write nothing, and neurons that would write it but fire for something else.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from nam.errors import InputError
from nam.evaluate.ground import Ground, find_ground
from nam.evaluate.planting import Plan, Role, Unfit, make_plans, plant_layer
from nam.evaluate.rankings import Ranking, top
from nam.reduction.ablated import ablated_hidden
from nam.reduction.base import contexts_of
from nam.types import Modality, Neuron, NeuronSet

if TYPE_CHECKING:
    from nam.mllm.base import MLLM
    from nam.reduction.base import Context
    from nam.types import Generation

#: The roles that the concept depends on.
CAUSES: tuple[Role, ...] = ("writer", "indirect", "relay")

#: What is built must have at least this share of its strength as its effect (the final norm takes a part of
#: what is written along a word that is said already), or at most so much where it should do nothing.
SHARE, NOTHING = 0.05, 0.01

#: How often layers and directions are drawn anew where a neuron does not become what it should.
DRAWS = 8


@dataclass(frozen=True)
class PlantedNeuron:
    """A neuron that was built.

    Attributes:
        neuron: Where.
        modality: Of the target that it was built for.
        role: What it was built to do.
        strength: What it (of an indirect one: its relay) was built to write along the target, in units of
            the largest direct contribution of the model's own neurons; 0 where it should do nothing.
        effect: What it does: the exact ablation of it alone (to zero, at the target's positions) as
            `nam.reduction.ablation` scores it, the mean over the contexts.
    """

    neuron: Neuron
    modality: Modality
    role: Role
    strength: float
    effect: float

    @property
    def is_cause(self) -> bool:
        """Whether the concept depends on it."""
        return self.role in CAUSES


@dataclass(frozen=True, eq=False)
class Planted:
    """A copy of a model with neurons planted.

    Attributes:
        mllm: The copy. The original is as it was.
        neurons: What was planted.
    """

    mllm: MLLM
    neurons: tuple[PlantedNeuron, ...]

    def of(self, modality: Modality) -> tuple[PlantedNeuron, ...]:
        """Those of one modality."""
        return tuple(one for one in self.neurons if one.modality == modality)


@dataclass(frozen=True)
class Recovery:
    """How well a method finds the planted neurons of a modality.

    Attributes:
        k: Size of the top.
        recall: The share of the causes that is in the top k.
        precision: The share of causes among the planted neurons in the top k; the model's own neurons, of
            which nothing is known by construction, do not count. NaN where no planted one is in it.
        found: The share of each role in the top k.
    """

    k: int
    recall: float
    precision: float
    found: Mapping[Role, float]


def recovery(ranking: Ranking, planted: Sequence[PlantedNeuron], *, k: int) -> Recovery:
    """Compare a ranking of the planted model's neurons with what was planted for its target's modality.

    Raises:
        InputError: the ranking is shorter than k, or no cause was planted.
    """
    best = top(ranking, k)
    causes = [one for one in planted if one.is_cause]
    if not causes:
        raise InputError("no writer was planted for this modality: there is nothing to find")
    there = [one for one in planted if one.neuron in best]
    right = sum(one.is_cause for one in there)
    by_role: dict[Role, list[bool]] = {}
    for one in planted:
        by_role.setdefault(one.role, []).append(one.neuron in best)
    return Recovery(
        k=k,
        recall=right / len(causes),
        precision=right / len(there) if there else float("nan"),
        found={role: sum(found) / len(found) for role, found in by_role.items()},
    )


def plant(
    contexts: Sequence[Context],
    others: Sequence[Generation],
    *,
    strengths: Sequence[float] = (2.0, 1.0, 0.5, 0.25),
    indirect: Sequence[float] = (2.0, 1.0),
    silent: int = 2,
    decoys: int = 2,
    seed: int = 0,
) -> Planted:
    """Plant neurons for one concept into a copy of a model: this many of each role for each modality.

    Each takes the place of a quiet neuron. It reads along the direction that tells the FFN's inputs at the
    target's positions from those everywhere else, above a threshold, and writes along the target's mean
    direction before the final norm. Layers are planted from the first to the last, so that each sees what
    those before it do. Writers fire like an average firing neuron of their layer, silent ones more than any:
    activation does not give away who writes.

    Args:
        contexts: Targets of the concept, of text or pictures or both, with what was recorded of them. For
            pictures, their relevance should be signed.
        others: Answers without the concept: where its neurons must not fire, and decoys do.
        strengths: Of the writers; see `PlantedNeuron.strength`. They are spread over all layers.
        indirect: Of pairs of an indirect writer in the first half of the layers and a relay after it.
        silent, decoys: How many.
        seed: Deals out the layers, and draws what indirect writers write.

    Raises:
        InputError: there is no context or no other answer, or contexts are of several models.
        ModelError: the model's FFNs cannot be planted into, or what was built did not do its part, `DRAWS`
            times.
    """
    if not contexts or not others:
        raise InputError(
            f"planting needs answers with and without the concept, got {len(contexts)} and {len(others)}"
        )
    mllm = contexts[0].mllm
    if any(context.mllm is not mllm for context in contexts):
        raise InputError("planting needs contexts of one model")
    if min((*strengths, *indirect), default=1) <= 0 or min(silent, decoys) < 0:
        raise InputError("strengths must be above 0, and numbers of planted neurons at least 0")
    if indirect and len(mllm.ffn_sites) < 2:
        raise InputError(f"an indirect writer needs a later layer, and {mllm.name} has one alone")
    roles: dict[Role, Sequence[float]] = {
        "writer": strengths,
        "indirect": indirect,
        "silent": [0.0] * silent,
        "decoy": [0.0] * decoys,
    }
    ground = find_ground(contexts, others)
    for draw in range(DRAWS):
        try:
            return _planted(contexts, ground, roles, rng=np.random.default_rng([seed, draw]))
        except Unfit:
            if draw == DRAWS - 1:
                raise
    raise AssertionError("unreachable")


def _planted(
    contexts: Sequence[Context],
    ground: Ground,
    roles: Mapping[Role, Sequence[float]],
    *,
    rng: np.random.Generator,
) -> Planted:
    mllm = copy.deepcopy(contexts[0].mllm)
    layers = len(mllm.ffn_sites)
    plans: list[Plan] = []
    for modality in ground.aims:
        plans += make_plans(modality, layers, roles, first=len(plans), rng=rng)
    where: dict[Plan, Neuron] = {}
    for layer in range(layers):
        mine = [plan for plan in plans if plan.layer == layer]
        where |= plant_layer(mllm, layer, mine, ground=ground, earlier=where, rng=rng)
    effects = _effects(mllm, contexts, where)
    for plan, effect in effects.items():
        _check(plan, where[plan], effect / ground.aims[plan.modality].unit)
    neurons = (PlantedNeuron(where[p], p.modality, p.role, p.strength, effects[p]) for p in plans)
    return Planted(mllm, tuple(neurons))


def _effects(mllm: MLLM, contexts: Sequence[Context], where: Mapping[Plan, Neuron]) -> dict[Plan, float]:
    """What each planted neuron does to the targets of its modality."""
    found: dict[Plan, float] = {}
    for modality in dict.fromkeys(plan.modality for plan in where):
        mine = [context for context in contexts if context.target.modality == modality]
        plans = sorted((plan for plan in where if plan.modality == modality), key=lambda plan: where[plan])
        neurons = NeuronSet(tuple(where[plan] for plan in plans))
        lost = torch.zeros(len(plans), dtype=torch.float64)
        for context in contexts_of(mllm, [c.generation for c in mine], [c.target for c in mine]):
            # They are few: whole forward passes cost little, and any model can run them.
            ablated = ablated_hidden(context, neurons, resume=False)
            lost += ablated.lost(context.after_norm()).double().cpu()
        found |= dict(zip(plans, (lost / len(mine)).tolist(), strict=True))
    return found


def _check(plan: Plan, neuron: Neuron, effect: float) -> None:
    """`effect` in units of strength."""
    right = effect >= SHARE * plan.strength if plan.role in CAUSES else abs(effect) <= NOTHING
    if not right:
        raise Unfit(
            f"the {plan.role} {neuron} of strength {plan.strength} has an effect of {effect:.3g}: it could "
            "not be built into this model; give other contexts, more other answers or another seed"
        )
