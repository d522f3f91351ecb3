"""Rankings of neurons, best first: what the measures on sets of neurons are given."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nam.errors import InputError
from nam.types import Neuron

#: Neurons of one score, best first and each once.
Ranking = Sequence[Neuron]


def ranking_of(places: Iterable[tuple[int, int]]) -> tuple[Neuron, ...]:
    """The ranking of (layer, unit) pairs, such as `nam.store.reader.MeanScores.top` gives."""
    return tuple(Neuron(layer, unit) for layer, unit in places)


def top(ranking: Ranking, k: int) -> frozenset[Neuron]:
    """The k best neurons.

    Raises:
        InputError: k is below 1, or the ranking holds fewer neurons.
    """
    if k < 1:
        raise InputError(f"expected at least one neuron, got k={k}")
    if len(ranking) < k:
        raise InputError(f"the ranking holds {len(ranking)} neurons, fewer than the top {k}")
    return frozenset(ranking[:k])
