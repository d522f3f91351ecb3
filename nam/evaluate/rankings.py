"""Rankings of neurons, best first: what the measures on sets of neurons are given."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from nam.errors import InputError
from nam.types import Neuron

if TYPE_CHECKING:
    from pandas import DataFrame

#: Neurons of one score, best first and each once.
Ranking = Sequence[Neuron]

#: Sample, concept, modality and method of a ranking.
RankingKey = tuple[str, str, str, str]


def rankings_of(rows: DataFrame) -> dict[RankingKey, tuple[Neuron, ...]]:
    """The rankings in rows of neurons.parquet, as `nam.store.Run.read_neurons` gives them, in their order."""
    found: dict[RankingKey, list[tuple[int, Neuron]]] = {}
    columns = ("sample", "concept", "modality", "method", "rank", "layer", "unit")
    for sample, concept, modality, method, rank, layer, unit in zip(
        *(rows[name].tolist() for name in columns), strict=True
    ):
        found.setdefault((sample, concept, modality, method), []).append((rank, Neuron(layer, unit)))
    return {key: tuple(neuron for _, neuron in sorted(ranked)) for key, ranked in found.items()}


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
