"""The truth that methods are held against, at one prompt: exact for words, drawn again for pictures."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nam.errors import ConfigError
from nam.evaluate.agreement import sample_neurons
from nam.evaluate.drawn import LevelsProbe, PictureProbe, SoftEvidence
from nam.evaluate.faithfulness import Effects, TextProbe
from nam.evaluate.leaderboard.cases import Case, best
from nam.types import Neuron, NeuronSet
from nam.world.scene import NOUNS

if TYPE_CHECKING:
    from nam.evaluate.judge import Judge
    from nam.evaluate.truth_cache import TruthCache


@dataclass(frozen=True, eq=False)
class Truth:
    """Effects of neurons at one prompt.

    Attributes:
        effects: By name, float32 (L, d); NaN where nothing is known.
        weights: By name, how many neurons each stands for, (L, d); absent where all are known.
    """

    effects: Effects
    weights: Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True, kw_only=True)
class Truths:
    """How the truth is found. Words: all neurons. Pictures: by a proxy for all neurons, and by the whole
    sampler for a sample of them (`nam.evaluate.drawn`); neurons that do not fire have no effect and cost
    nothing.

    Attributes:
        levels: Of the proxy (`LevelsProbe`); empty for none.
        neurons: Firing neurons of a prompt whose pictures are drawn again by the whole sampler: the tops of
            all methods and of the proxy, the others at random, at least a third of this number; 0 for none.
        tops: Neurons of each method and region, and of the proxy's effects, that are in the sample for sure.
        exhaustive: Prompts at which all neurons are drawn again, the first of each concept in turn.
        batch: Pictures that are drawn together.
        everywhere: Words: ablate neurons at all positions, too (effects named `..._everywhere`).
    """

    levels: tuple[float, ...] = (0.65, 0.25)
    neurons: int = 300
    tops: int = 10
    exhaustive: int = 2
    batch: int = 64
    everywhere: bool = True

    def __post_init__(self) -> None:
        for name, least in (("neurons", 0), ("tops", 0), ("exhaustive", 0), ("batch", 1)):
            if getattr(self, name) < least:
                raise ConfigError(
                    f"evaluate.truths.{name} must be at least {least}, got {getattr(self, name)}"
                )
        if not self.levels and not self.neurons:
            raise ConfigError("evaluate.truths needs levels for a proxy, or neurons to draw again")

    def of(
        self,
        case: Case,
        cache: TruthCache,
        *,
        judge: Judge | None,
        seed: int,
        whole: bool = False,
    ) -> Truth:
        """The truth at one prompt, as far as it is not known already.

        Args:
            case: The target, and the scores whose tops are in the sample.
            cache: Where effects are kept.
            judge: Gives evidence in pictures of a thing of the scenes.
            seed: Of the sample.
            whole: Draw all neurons again.
        """
        if case.modality == "text":
            found = cache.effects(case.context, TextProbe())
            if self.everywhere:
                found |= cache.effects(case.context, TextProbe(positions="all"))
            return Truth(found, {})
        known = judge is not None and case.concept.name in NOUNS
        evidence = SoftEvidence(judge, case.concept.name) if judge is not None and known else None
        effects: Effects = {}
        weights: dict[str, NDArray[np.float64]] = {}
        if self.levels:
            proxy = LevelsProbe(
                region=case.region, evidence=evidence, batch=self.batch, levels=tuple(self.levels)
            )
            effects |= cache.effects(case.context, proxy)
        if self.neurons or whole:
            probe = PictureProbe(region=case.region, evidence=evidence, batch=self.batch)
            weight = None if whole else self.sample(case, effects, seed=seed)
            neurons = None if weight is None else _set(weight > 0)
            drawn = cache.effects(case.context, probe, neurons)
            for name, values in drawn.items():
                effects[name] = values if weight is None else np.where(weight > 0, values, np.nan)
                if weight is not None:
                    weights[name] = weight
        return Truth(effects, weights)

    def sample(
        self, case: Case, proxy: Mapping[str, NDArray[np.float32]], *, seed: int
    ) -> NDArray[np.float64]:
        """How many neurons each neuron of the sample stands for, (L, d); 0 for those outside."""
        still = (case.context.activations == 0).all(1).cpu().numpy()
        tops = np.zeros_like(still)
        for scores in (*case.scores.values(), *proxy.values()):
            for neuron in best(scores, self.tops) if self.tops else ():
                tops[neuron.layer, neuron.unit] = True
        others = max(self.neurons - int((tops & ~still).sum()), -(-self.neurons // 3))
        rng = np.random.default_rng([seed, zlib.crc32(case.id.encode())])
        indices, weights = sample_neurons((still | tops).ravel(), others, rng=rng)
        found = np.zeros(still.size)
        found[indices] = weights
        return found.reshape(still.shape)


def _set(mask: NDArray[np.bool_]) -> NeuronSet:
    return NeuronSet(tuple(Neuron(layer, unit) for layer, unit in np.argwhere(mask).tolist()))
