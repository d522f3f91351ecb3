"""`nam.attribute`: the neurons behind one answer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nam.checks import expect, whole
from nam.data.concepts import concept_of
from nam.errors import InputError, TargetError
from nam.mllm.base import MLLM
from nam.mllm.words import WordBook
from nam.options import part
from nam.reduction.base import Method, contexts_of, scores_of
from nam.regions import ALWAYS, TimeRange, regions_of
from nam.relevance.base import Relevance, RelevanceMap
from nam.segmenter.base import Mask, Segmenter
from nam.targets import image_target, text_target
from nam.types import MEDIA, Concept, Generation, Medium, Modality, Neuron, Target

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, eq=False, kw_only=True)
class Attribution:
    """How much each neuron is responsible for a concept in one answer.

    Attributes:
        mllm: The model.
        concept: What was looked for.
        modality: In the words or in the picture.
        method: Name of the method.
        scores: (L, d) float32; the higher, the more responsible.
        activations: (L, d) float32, each neuron's mean over the target's positions.
        target: What was attributed.
        mask: Where the concept is in the picture; None for words.
        relevance: Of the hidden states that the picture came from; None for words, and where the picture is
            made of tokens.
    """

    mllm: MLLM
    concept: Concept
    modality: Modality
    method: str
    scores: Tensor
    activations: Tensor
    target: Target
    mask: Mask | None = None
    relevance: RelevanceMap | None = None

    def top(self, count: int = 10, *, words: int = 5) -> DataFrame:
        """The neurons with the highest scores: columns layer, unit, score, activation, words; best first.

        Args:
            count: Most neurons.
            words: Most words of each.

        Raises:
            InputError: a number that is no integer of at least 1.
        """
        import pandas as pd

        from nam.store.rows import rank_neurons

        best = whole("count", count, least=1)
        where = rank_neurons(self.scores, count=best, activations=self.activations)
        layers, units = where[:, 0], where[:, 1]
        found = WordBook(self.mllm, count=words)([Neuron(int(layer), int(unit)) for layer, unit in where])
        columns = {
            "layer": layers,
            "unit": units,
            "score": self.scores.numpy()[layers, units],
            "activation": self.activations.numpy()[layers, units],
            "words": [", ".join(one) for one in found],
        }
        return pd.DataFrame(columns)


def attribute(
    mllm: MLLM,
    generation: Generation,
    *,
    concept: str | Concept,
    modality: Modality = "image",
    reduction: str | Method = "nam",
    relevance: str | Relevance = "gradient",
    segmenter: str | Segmenter = "scenes",
    mask: NDArray[np.bool_] | Mask | None = None,
    time: TimeRange = ALWAYS,
) -> Attribution:
    """The neurons that make a model say a concept, or draw it.

    Args:
        mllm: The model that answered.
        generation: Its answer, from `mllm.generate`.
        concept: A word such as "horse" (its plural and nicknames count too), or a `Concept`.
        modality: "text" for the word in the answer, "image" for the thing in the picture; "audio" or
            "video" of a model that draws them.
        reduction: A method, or its name under `configs/reduction`.
        relevance: A provider, or its name under `configs/relevance`; for what was drawn.
        segmenter: A segmenter, or its name under `configs/segmenter`; for pictures and the frames of a video.
        mask: The region of `generation.image`, bool (H, W) or a `Mask`, instead of the segmenter's and of
            `time`.
        time: Of a sound or a video, what is looked at, as shares of the whole: (0.5, 1.0) is the second half.

    Raises:
        TargetError: the concept is not in the answer or not in the picture, or nothing was drawn.
        RelevanceError, ScoreError: a gradient, an activation or a score is not finite.
        InputError: an argument is of the wrong type or shape, or the segmenter does not know the concept.
        ConfigError: a method, provider or segmenter is of the wrong type or not under `configs`, or a method
            needs signed relevance, which the provider cannot combine as it should.
        ModelError: the model cannot give what a method or provider needs.
    """
    expect(MLLM, mllm, "mllm: expected a model, as nam.load gives it")
    expect(Generation, generation, "generation: expected one answer, as mllm.generate gives it")
    concept = concept_of(concept) if isinstance(concept, str) else concept
    expect(Concept, concept, "concept: expected a word such as 'horse', or a nam.types.Concept")
    method: Method = part(Method, "reduction", reduction)
    provider: Relevance = part(Relevance, "relevance", relevance)
    chosen: Segmenter = part(Segmenter, "segmenter", segmenter)
    region = found = None
    if modality == "text":
        target = text_target(mllm, generation, concept)
    elif isinstance(modality, str) and modality in MEDIA:
        region = _region(generation, concept, chosen, mask, modality, time)
        pixels = torch.from_numpy(region.pixels)
        if mllm.draws_tokens:
            target = mllm.picture_target(generation, pixels)
        else:
            provider = replace(provider, signed=provider.signed or method.needs.signed)
            found = provider(mllm, generation, pixels)
            target = image_target(generation, found)
    else:
        raise InputError(f'modality must be "text" or "image" ("audio", "video"), got {modality!r}')
    contexts = contexts_of(mllm, [generation], [target], later=method.needs.backward)
    scores = scores_of(method, contexts, [concept])[0]
    return Attribution(
        mllm=mllm,
        concept=concept,
        modality=modality,
        method=method.name,
        scores=scores.scores,
        activations=scores.activations,
        target=target,
        mask=region,
        relevance=found,
    )


def _region(
    generation: Generation,
    concept: Concept,
    segmenter: Segmenter,
    mask: NDArray[np.bool_] | Mask | None,
    medium: Medium,
    time: TimeRange,
) -> Mask:
    name = MEDIA[medium]
    if generation.image is None or generation.medium != medium:
        raise TargetError(f"nothing was drawn: the answer {generation.text!r} has no {name}")
    if mask is None:
        region = regions_of([generation], [concept], segmenter, given=[None], times=[time])[0]
    else:
        mask = mask.pixels if isinstance(mask, Mask) else mask
        expect(np.ndarray, mask, "mask: expected a bool array (H, W)")
        size = (generation.image.height, generation.image.width)
        if mask.dtype != np.bool_ or mask.shape != size:
            raise InputError(
                f"mask: expected a bool array of the picture's size {size}, such as values > 0.5, "
                f"got {mask.dtype} of shape {mask.shape}"
            )
        region = Mask(mask.copy(), float(mask.any()))
    if region.empty:
        raise TargetError(f"the mask is empty: no {concept.name} was found in the {name}")
    return region
