"""Several deltas of one model as one."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nam.checks import expect
from nam.editor.columns import named
from nam.editor.delta import Delta, EditError
from nam.types import Neuron, NeuronSet


def compose(deltas: Sequence[Delta]) -> Delta:
    """Several deltas of one model as one.

    Raises:
        EditError: there is none, two change the same neuron, or they were made on different models.
    """
    if not deltas:
        raise EditError("expected at least one delta to compose")
    rows: dict[Neuron, tuple[int, int]] = {}  # neuron -> number of its delta, row in it
    for number, delta in enumerate(deltas):
        expect(Delta, delta, "expected deltas to compose", error=EditError)
        if (delta.revision, delta.original.dtype) != (deltas[0].revision, deltas[0].original.dtype):
            raise EditError(
                f"delta {number} was made on {delta.model} {delta.revision}, another model than the first"
            )
        both = [neuron for neuron in delta.neurons if neuron in rows]
        if both:
            raise EditError(
                f"deltas {rows[both[0]][0]} and {number} overlap in {len(both)} neurons: {named(both)}"
            )
        rows |= {neuron: (number, row) for row, neuron in enumerate(delta.neurons)}
    order = sorted(rows)
    places = [rows[neuron] for neuron in order]
    return Delta(
        neurons=NeuronSet(tuple(order)),
        original=torch.stack([deltas[number].original[row] for number, row in places]),
        edited=torch.stack([deltas[number].edited[row] for number, row in places]),
        model=deltas[0].model,
        revision=deltas[0].revision,
        manifest={"parts": [dict(delta.manifest) for delta in deltas]},
    )
