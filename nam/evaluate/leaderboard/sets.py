"""The paper's measures on sets of neurons: layers, invariance, specificity, sensitivity."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from nam.checks import whole
from nam.data.items import Source
from nam.errors import ConfigError
from nam.evaluate.distribution import layer_distribution
from nam.evaluate.invariance import Route, chance_invariance, cross_modal_invariance, cross_sample_invariance
from nam.evaluate.leaderboard.base import Bench, Part
from nam.evaluate.leaderboard.cases import best
from nam.evaluate.leaderboard.table import NO_REGION, Figure
from nam.evaluate.rankings import Ranking
from nam.evaluate.sensitivity import activations_of, sensitivity
from nam.evaluate.specificity import specificity
from nam.types import Modality, Neuron

if TYPE_CHECKING:
    from nam.attribution import Work

#: Method, modality and concept.
Key = tuple[str, Modality, str]

_MODALITIES: tuple[Modality, Modality] = ("text", "image")

#: Where the neurons of a concept may tell that it is in a picture: a part of `activations_of`, and its name.
_STAGES = {"picture": "seen", "ask": "asked", "answer": "said"}


@dataclass(eq=False)
class Repeats:
    """One method's rankings of one concept, by how it came in, with the sum of their scores."""

    rankings: dict[Modality, list[Ranking]] = field(default_factory=lambda: {"text": [], "image": []})
    sums: dict[Modality, NDArray[np.float64]] = field(default_factory=dict)

    def mean(self, way: Modality, count: int) -> Ranking | None:
        """The best neurons over the samples in which the concept came in so."""
        return best(self.sums[way].astype(np.float32), count) if way in self.sums else None


@dataclass(frozen=True, kw_only=True)
class NeuronSets(Part):
    """What the paper measures on the top neurons of concepts that are asked for again and again, with the
    concept's region for methods that know regions.

    Attributes:
        source: The prompts: requests to draw are the repeats; pictures to describe and to draw again are ways
            in as a picture, and the scenes of sensitivity. None for the run's own, as they are answered.
        k: Size of the tops.
        kappas: Of specificity.
        batch: Prompts that are answered together.
    """

    notes: ClassVar = {
        "invariance": "share of the top k that is in the top k of every repeat, less what is due to chance",
        "cross_modal": "overlap of the tops when a concept comes in, or goes out, as a word and as a "
        "picture; 0 by chance, 1 for equal tops",
        "specific": "share of the top k that is in no other concept's top k",
        "specific_below": "share of the top k that is crucial for another concept in fewer than this "
        "share of samples",
        "depth": "mean layer of the top k, from 0 (first) to 1 (last)",
        "both": "share of the top k that is both a T- and an I-neuron",
        "auroc": "how well the top k's activation tells that the concept is in the picture that is "
        "described: over the picture's positions (seen), at the prompt's last one (asked), over the answer's "
        "(said)",
        "size_slope": "change of that activation, in standard deviations, when the thing grows by one",
    }

    source: Source | None = None
    k: int = 50
    kappas: Sequence[float] = (0.1, 0.25, 0.45)
    batch: int = 8

    def __post_init__(self) -> None:
        for name in ("k", "batch"):
            whole(f"evaluate.parts.sets.{name}", getattr(self, name), least=1, error=ConfigError)

    def measure(self, bench: Bench) -> list[Figure]:
        repeats, works = self._asked(bench)
        concepts = sorted({concept for _, _, concept in repeats})
        found: list[Figure] = []
        for method in bench.attributor.methods:
            mine = {key[1:]: value for key, value in repeats.items() if key[0] == method}
            found += self._repeated(method, mine, bench)
            found += self._specific(method, mine)
            found += self._layers(method, mine, concepts, bench)
        found += self._sensitive(repeats, works, bench)
        return found

    def _asked(self, bench: Bench) -> tuple[dict[Key, Repeats], list[Work]]:
        """Every method's rankings, and the answers."""
        repeats: dict[Key, Repeats] = {}
        works: list[Work] = []
        for some in self._answers(bench):
            for work in some:
                way: Modality = "text" if work.item.sample.image is None else "image"
                for scores in work.scores:
                    key = (scores.method, scores.modality, work.concept.name)
                    one = repeats.setdefault(key, Repeats())
                    values = scores.scores.numpy()
                    one.rankings[way].append(best(values, self.k))
                    one.sums[way] = one.sums.get(way, 0.0) + values.astype(np.float64)
            works += [work for work in some if work.generation is not None]
        return repeats, works

    def _answers(self, bench: Bench) -> Iterator[Sequence[Work]]:
        if self.source is None:
            yield list({id(case.work): case.work for case in bench.cases}.values())
            return
        items = [self.source[index] for index in range(len(self.source))]
        advance = bench.tell("repeats", len(items))
        for start in range(0, len(items), self.batch):
            some = bench.attributor(items[start : start + self.batch])
            yield some
            advance(len(some))

    def _repeated(
        self, method: str, mine: Mapping[tuple[Modality, str], Repeats], bench: Bench
    ) -> list[Figure]:
        found, neurons = [], _neurons(bench)
        for (modality, concept), one in mine.items():
            rankings = one.rankings["text"]
            if len(rankings) > 1:
                value = cross_sample_invariance(rankings, k=self.k)
                chance = chance_invariance(k=self.k, repeats=len(rankings), neurons=neurons)
                found.append(_figure(concept, method, modality, f"invariance@{self.k}", value - chance))
        for concept in sorted({concept for _, concept in mine}):
            routes: dict[Route, Ranking] = {}
            for out in _MODALITIES:
                for way in _MODALITIES:
                    ranking = mine[out, concept].mean(way, self.k) if (out, concept) in mine else None
                    if ranking is not None:
                        routes[way, out] = ranking
            if len(routes) > 1:
                overlaps = cross_modal_invariance(routes, k=self.k, neurons=neurons)
                found += [
                    _figure(concept, method, NO_REGION, f"cross_modal@{self.k}[{name}]", one.excess)
                    for name, one in overlaps.items()
                ]
        return found

    def _specific(self, method: str, mine: Mapping[tuple[Modality, str], Repeats]) -> list[Figure]:
        found = []
        for modality in _MODALITIES:
            tops, samples = {}, {}
            for (which, concept), one in mine.items():
                ranking = one.mean("text", self.k) if which == modality else None
                if ranking is not None:
                    tops[concept], samples[concept] = ranking, one.rankings["text"]
            if len(tops) < 2:
                continue
            for concept, own in specificity(tops, samples, k=self.k, kappas=self.kappas).items():
                found.append(_figure(concept, method, modality, f"specific@{self.k}", own.only / self.k))
                found += [
                    _figure(concept, method, modality, f"specific_below@{self.k}[{kappa:g}]", n / self.k)
                    for kappa, n in own.below.items()
                ]
        return found

    def _layers(
        self,
        method: str,
        mine: Mapping[tuple[Modality, str], Repeats],
        concepts: Sequence[str],
        bench: Bench,
    ) -> list[Figure]:
        found, layers = [], len(bench.mllm.ffn_sites)
        places = np.arange(layers) / max(1, layers - 1)
        for concept in concepts:
            tops = {
                modality: ranking
                for modality in _MODALITIES
                if (modality, concept) in mine
                and (ranking := mine[modality, concept].mean("text", self.k)) is not None
            }
            if len(tops) < 2:
                continue
            counts = layer_distribution(tops["text"], tops["image"], k=self.k, layers=layers)
            for modality, values in (("text", counts.text), ("image", counts.image)):
                depth = float(values @ places) / self.k
                found.append(_figure(concept, method, modality, f"depth@{self.k}", depth))
            shared = float(counts.both.sum()) / self.k
            found.append(_figure(concept, method, NO_REGION, f"both@{self.k}", shared))
        return found

    def _sensitive(self, repeats: Mapping[Key, Repeats], works: Sequence[Work], bench: Bench) -> list[Figure]:
        """Over the rendered pictures that were asked about."""
        seen = [work for work in works if work.item.masks is not None]
        if not seen:
            return []
        found = []
        for concept in sorted({concept for _, _, concept in repeats}):
            masks = [(work.item.masks or {}).get(concept) for work in seen]
            sizes = np.array([0.0 if mask is None else float(mask.mean()) for mask in masks])
            present = sizes > 0
            if present.all() or len(np.unique(sizes[present])) < 2:
                continue
            tops: dict[tuple[str, Modality], Ranking] = {}
            for (method, modality, name), one in repeats.items():
                ranking = one.mean("text", self.k) if name == concept else None
                if ranking is not None:
                    tops[method, modality] = ranking
            neurons: list[Neuron] = sorted({neuron for ranking in tops.values() for neuron in ranking})
            column = {neuron: index for index, neuron in enumerate(neurons)}
            for part, stage in _STAGES.items() if neurons else ():
                table = activations_of(bench.mllm, [work.answer for work in seen], neurons, positions=part)
                whole = sensitivity(table, present=present, sizes=sizes)
                for (method, modality), ranking in tops.items():
                    places = [column[neuron] for neuron in ranking]
                    for measure, values in (("auroc", whole.auroc), ("size_slope", whole.slope)):
                        if np.isfinite(values[places]).any():
                            value = float(np.nanmean(values[places]))
                            name = f"{measure}@{self.k}[{stage}]"
                            found.append(_figure(concept, method, modality, name, value))
        return found


def _figure(concept: str, method: str, modality: str, measure: str, value: float) -> Figure:
    return Figure(concept, concept, method, modality, NO_REGION, measure, value)


def _neurons(bench: Bench) -> int:
    return sum(site.width for site in bench.mllm.ffn_sites)
