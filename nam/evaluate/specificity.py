"""How many of a concept's neurons are its own (paper, specificity)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nam.errors import InputError
from nam.evaluate.rankings import Ranking, top

#: The paper's probabilities, 10 to 45 %.
KAPPAS = (0.10, 0.15, 0.20, 0.25, 0.30, 0.35, 0.40, 0.45)


@dataclass(frozen=True)
class Specificity:
    """How many of a concept's top neurons are its own.

    Attributes:
        k: Number of top neurons.
        only: How many are crucial for no other concept.
        below: kappa -> how many have a probability below kappa of being crucial for another concept.
    """

    k: int
    only: int
    below: Mapping[float, int]


def specificity(
    tops: Mapping[str, Ranking],
    samples: Mapping[str, Sequence[Ranking]] | None = None,
    *,
    k: int = 500,
    kappas: Sequence[float] = KAPPAS,
) -> dict[str, Specificity]:
    """Specificity of the top neurons of every concept.

    Crucial is what is in a top k. The probability of a neuron of being crucial for another concept is the
    mean, over the other concepts, of the share of their samples in whose top k it is.

    Args:
        tops: Concept -> its neurons, best first.
        samples: Concept -> a ranking of each of its samples; None: `tops` alone, one for each concept.
        k: How many neurons are crucial (the paper: 500).
        kappas: Probabilities, 0 to 1.

    Raises:
        InputError: there are fewer than two concepts, one has no samples, or a ranking is shorter than k.
    """
    samples = {concept: [ranking] for concept, ranking in tops.items()} if samples is None else samples
    if len(tops) < 2 or set(tops) != set(samples) or not all(samples.values()):
        raise InputError(
            "specificity needs at least two concepts, each with its top neurons and its samples; "
            f"got {sorted(tops)} and {sorted(name for name, found in samples.items() if found)}"
        )
    shares = {
        concept: {
            neuron: count / len(rankings)
            for neuron, count in Counter(n for ranking in rankings for n in top(ranking, k)).items()
        }
        for concept, rankings in samples.items()
    }
    found = {}
    for concept, ranking in tops.items():
        others = [share for other, share in shares.items() if other != concept]
        chances = [sum(share.get(n, 0.0) for share in others) / len(others) for n in top(ranking, k)]
        found[concept] = Specificity(
            k=k,
            only=sum(chance == 0 for chance in chances),
            below={kappa: sum(chance < kappa for chance in chances) for kappa in kappas},
        )
    return found
