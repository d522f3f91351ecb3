"""Whether the same neurons come up again: across samples, and across words and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nam.errors import InputError
from nam.evaluate.rankings import Ranking, top
from nam.types import Modality

#: How a concept comes in and how it goes out, each as a word ("text") or as a picture ("image").
Route = tuple[Modality, Modality]


def cross_sample_invariance(repeats: Sequence[Ranking], *, k: int) -> float:
    """The share of the top k that is in the top k of every repeat (paper: a concept asked 10 times).

    Raises:
        InputError: there are fewer than two repeats, or one is shorter than k.
    """
    if len(repeats) < 2:
        raise InputError(f"invariance needs at least two repeats, got {len(repeats)}")
    return len(frozenset.intersection(*(top(ranking, k) for ranking in repeats))) / k


def chance_invariance(*, k: int, repeats: int, neurons: int) -> float:
    """The invariance to be expected of rankings at random: (k / N)^(R - 1).

    Args:
        k: Size of each top.
        repeats: R.
        neurons: Of the model, N.
    """
    share: float = (k / neurons) ** (repeats - 1)
    return share


@dataclass(frozen=True)
class Overlap:
    """How many neurons two tops of k share, against two random tops, whose overlap is hypergeometric.

    Attributes:
        shared: Neurons in both.
        share: shared / k.
        chance: The share to be expected by chance, k / N.
        excess: (share - chance) / (1 - chance): 0 by chance, 1 for equal tops.
        p_value: Probability that two random tops share as many or more.
    """

    shared: int
    share: float
    chance: float
    excess: float
    p_value: float


def overlap(a: Ranking, b: Ranking, *, k: int, neurons: int) -> Overlap:
    """The overlap of two rankings' tops.

    Args:
        a, b: Neurons, best first.
        k: Size of each top.
        neurons: Of the model, N.

    Raises:
        InputError: a ranking is shorter than k, or k is not below N.
    """
    from scipy.stats import hypergeom

    if not k < neurons:
        raise InputError(f"an overlap by chance needs a top smaller than the model, got k={k} of {neurons}")
    shared = len(top(a, k) & top(b, k))
    share, chance = shared / k, k / neurons
    return Overlap(
        shared=shared,
        share=share,
        chance=chance,
        excess=(share - chance) / (1 - chance),
        p_value=float(hypergeom.sf(shared - 1, neurons, k, k)),
    )


def cross_modal_invariance(routes: Mapping[Route, Ranking], *, k: int, neurons: int) -> dict[str, Overlap]:
    """How far a concept's neurons stay the same when it comes in, or goes out, as a word or as a picture.

    The paper's abstract names it and never defines it; here it is the overlap of the top k of two routes that
    differ in one side.

    Args:
        routes: The concept's neurons, best first, by (comes in, goes out); those that are there are compared.
        k: Size of each top.
        neurons: Of the model.

    Returns:
        "in|text" and "in|image": a word against a picture coming in, going out as a word, as a picture;
        "out|text" and "out|image": a word against a picture going out, coming in as a word, as a picture.

    Raises:
        InputError: as `overlap`; no two routes differ in one side alone.
    """
    pairs: dict[str, tuple[Route, Route]] = {
        "in|text": (("text", "text"), ("image", "text")),
        "in|image": (("text", "image"), ("image", "image")),
        "out|text": (("text", "text"), ("text", "image")),
        "out|image": (("image", "text"), ("image", "image")),
    }
    found = {
        name: overlap(routes[a], routes[b], k=k, neurons=neurons)
        for name, (a, b) in pairs.items()
        if a in routes and b in routes
    }
    if not found:
        raise InputError(
            f"nothing to compare: no two of the routes {sorted(routes)} differ in one side alone"
        )
    return found
