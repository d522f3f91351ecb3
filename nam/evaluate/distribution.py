"""In which layers the top neurons are (paper, layer distribution)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nam.errors import InputError
from nam.evaluate.rankings import Ranking, top
from nam.types import Neuron


@dataclass(frozen=True, eq=False)
class LayerCounts:
    """How many neurons each layer has, int64 (L,) each.

    Attributes:
        text: T-neurons.
        image: I-neurons.
        both: Neurons that are both.
        either: Neurons that are one or the other.
    """

    text: NDArray[np.int64]
    image: NDArray[np.int64]
    both: NDArray[np.int64]
    either: NDArray[np.int64]


def layer_distribution(text: Ranking, image: Ranking, *, k: int, layers: int) -> LayerCounts:
    """Layers of the k best T- and I-neurons of one concept (the paper: k of 100, 300 and 600).

    Args:
        text: T-neurons, best first.
        image: I-neurons, best first.
        k: How many of each.
        layers: Of the model, L.

    Raises:
        InputError: a ranking is shorter than k, or a neuron is in no layer of the model.
    """
    said, drawn = top(text, k), top(image, k)
    return LayerCounts(
        *(count_layers(some, layers=layers) for some in (said, drawn, said & drawn, said | drawn))
    )


def count_layers(neurons: Iterable[Neuron], *, layers: int) -> NDArray[np.int64]:
    """How many of the neurons each layer has, (L,).

    Raises:
        InputError: a neuron is in no layer of the model.
    """
    counts = Counter(neuron.layer for neuron in neurons)
    if counts and max(counts) >= layers:
        raise InputError(f"a neuron is in layer {max(counts)}, the model has layers 0 to {layers - 1}")
    return np.array([counts[layer] for layer in range(layers)], dtype=np.int64)
