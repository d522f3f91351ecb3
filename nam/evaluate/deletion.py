"""Deletion curves: what is left of a concept when a method's top k neurons are ablated together.

A good ranking takes the concept away with few neurons, sooner than as many random neurons of the same layers,
and leaves other concepts alone: the side effect is the same curve, read where another concept is said or
drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from nam.errors import InputError
from nam.evaluate.rankings import Ranking, top
from nam.types import Neuron, NeuronSet

#: What is left of a concept with each of n sets of neurons ablated, (n,): see `nam.evaluate.joint`.
Read = Callable[[Sequence[NeuronSet]], Tensor]


@dataclass(frozen=True)
class Deletion:
    """The curves of one method, at each number of ablated neurons in `ks`.

    Attributes:
        ks: Ascending.
        plain: What is read with no neuron ablated.
        method: With the method's top k.
        random: With k random neurons in the same layers, the mean over several draws.
        exact: With the top k by exact ablation.
    """

    ks: tuple[int, ...]
    plain: float
    method: tuple[float, ...]
    random: tuple[float, ...]
    exact: tuple[float, ...]

    @property
    def area(self) -> float:
        """How far the method's curve lies below that of its random neurons."""
        return area_between(self.ks, self.random, self.method)

    @property
    def relative(self) -> float:
        """`area`, as a share of how far the exact order lies below the same random neurons; above 1 where the
        method's neurons, taken together, do more than those that do most one by one. NaN where the exact
        order does not lie below."""
        most = area_between(self.ks, self.random, self.exact)
        return self.area / most if most > 0 else float("nan")


def log_spaced(k_max: int, count: int) -> tuple[int, ...]:
    """At most `count` different numbers of neurons from 1 to `k_max`, evenly spaced on a log scale.

    Raises:
        InputError: there is none.
    """
    if k_max < 1 or count < 1:
        raise InputError(f"expected at least one step up to at least one neuron, got {count} up to {k_max}")
    if count == 1:
        return (k_max,)
    return tuple(np.unique(np.geomspace(1, k_max, count).round().astype(int)).tolist())


def area_between(ks: Sequence[int], upper: Sequence[float], lower: Sequence[float]) -> float:
    """The mean of upper - lower over log k, by the trapezoid rule: each decade of k counts as much.

    Raises:
        InputError: the curves are not as long as `ks`, or `ks` does not ascend from at least 1.
    """
    if not len(ks) == len(upper) == len(lower) or not ks or ks[0] < 1:
        raise InputError(f"curves of {len(upper)} and {len(lower)} values do not fit {len(ks)} numbers")
    gap, x = np.subtract(upper, lower), np.log(ks)
    if len(ks) == 1:
        return float(gap[0])
    if not (np.diff(x) > 0).all():
        raise InputError(f"numbers of ablated neurons must ascend, got {list(ks)}")
    return float(((gap[1:] + gap[:-1]) / 2 * np.diff(x)).sum() / (x[-1] - x[0]))


def deletion_curves(
    read: Read,
    rankings: Mapping[str, Ranking],
    *,
    exact: Ranking,
    ks: Sequence[int],
    width: int,
    rng: np.random.Generator,
    draws: int = 3,
) -> dict[str, Deletion]:
    """The curves of several methods; each different set of neurons is read once.

    Args:
        read: Where the concept is said or drawn; for the side effect, where another one is.
        rankings: By method, neurons best first.
        exact: Neurons by exact ablation, best first.
        ks: Numbers of neurons that are ablated together, ascending.
        width: Neurons of a layer.
        rng: Draws the random neurons.
        draws: Random rankings for each method.

    Raises:
        InputError: a ranking is shorter than the largest k, or `ks` or `draws` is no good.
    """
    if draws < 1:
        raise InputError(f"expected at least one random ranking for each method, got {draws}")

    def steps(ranking: Ranking) -> list[NeuronSet]:
        return [NeuronSet.of(top(ranking, k)) for k in ks]

    nothing, by_exact = NeuronSet(()), steps(exact)
    by_method = {name: steps(ranking) for name, ranking in rankings.items()}
    by_chance = {
        name: [steps(same_layers(ranking[: max(ks)], width=width, rng=rng)) for _ in range(draws)]
        for name, ranking in rankings.items()
    }
    drawn = [one for many in by_chance.values() for sets in many for one in sets]
    wanted = [nothing, *by_exact, *(one for sets in by_method.values() for one in sets), *drawn]
    different = list(dict.fromkeys(wanted))
    value = dict(zip(different, read(different).tolist(), strict=True))

    def curve(sets: Sequence[NeuronSet]) -> tuple[float, ...]:
        return tuple(value[one] for one in sets)

    return {
        name: Deletion(
            ks=tuple(ks),
            plain=value[nothing],
            method=curve(sets),
            random=tuple(np.mean([curve(one) for one in by_chance[name]], axis=0).tolist()),
            exact=curve(by_exact),
        )
        for name, sets in by_method.items()
    }


def same_layers(ranking: Ranking, *, width: int, rng: np.random.Generator) -> tuple[Neuron, ...]:
    """Random neurons, each different and in the layer of the one whose place it takes."""
    left = {
        layer: iter(rng.permutation(width).tolist()) for layer in sorted({neuron.layer for neuron in ranking})
    }
    return tuple(Neuron(neuron.layer, next(left[neuron.layer])) for neuron in ranking)
