"""Editing problems on the tiny random model, whose words mean nothing: other states are wanted at random."""

from __future__ import annotations

import torch

from nam.editor.base import NO_TOKEN, Case, Goal, Problem, Role
from nam.editor.cases import answer_positions, streams_of
from nam.mllm.gill import GILL
from nam.types import Concept, Neuron, NeuronSet
from tests.families import answers

NEURONS = NeuronSet.of(Neuron(layer, unit) for layer in (0, 1) for unit in range(0, 48, 4))


def problem(mllm: GILL, *, size: float = 0.5, role: Role = "image") -> Problem:
    """Two answers whose [IMG] positions should move, and two that should stay."""
    generations = answers(mllm)
    cases = []
    for row, (generation, stream) in enumerate(zip(generations, streams_of(mllm, generations), strict=True)):
        count, words = len(generation.spans.img), len(stream) - len(generation.spans.img)
        roles: tuple[Role, ...] = ("keep",) * len(stream)
        wanted = stream.clone()
        if row < 2:
            noise = torch.randn(stream.shape[1], generator=torch.Generator().manual_seed(row))
            wanted[-count:] += size * noise
            roles = (*roles[:words], *(role,) * count)
        tokens = (*generation.answer_ids, 5)
        cases.append(
            Case(
                generation=generation,
                positions=answer_positions(generation),
                wanted=wanted,
                roles=roles,
                tokens=(*tokens, *[NO_TOKEN] * count),
            )
        )
    return Problem(mllm=mllm, goal=Goal(Concept("cat"), Concept("dog")), cases=tuple(cases))
