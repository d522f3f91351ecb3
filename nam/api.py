"""`nam.attribute`: the neurons behind one answer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nam.data.concepts import concept_of
from nam.errors import InputError, TargetError
from nam.mllm.base import MLLM
from nam.mllm.words import WordBook
from nam.options import option
from nam.reduction.base import Method, contexts_of, scores_of
from nam.relevance.base import Relevance, RelevanceMap
from nam.segmenter.base import Mask, Segmenter
from nam.targets import image_target, text_target
from nam.types import Concept, Generation, Modality, Neuron, Target

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
        relevance: Of the hidden states that the picture came from; None for words.
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
        """The neurons with the highest scores, with columns layer, unit, score, activation, words.

        Args:
            count: Most neurons.
            words: Most words of each.
        """
        import pandas as pd

        from nam.store.rows import rank_neurons

        where = rank_neurons(self.scores, count=count, activations=self.activations)
        layers, units = where[:, 0], where[:, 1]
        found = WordBook(self.mllm, count=words)([Neuron(int(at), int(unit)) for at, unit in where])
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
    mask: NDArray[np.bool_] | None = None,
) -> Attribution:
    """The neurons that make a model say a concept, or draw it.

    Args:
        mllm: The model that answered.
        generation: Its answer, from `mllm.generate`.
        concept: A word such as "horse" (its plural and nicknames count too), or a `Concept`.
        modality: "text" for the word in the answer, "image" for the thing in the picture.
        reduction: A method, or its name under `configs/reduction`.
        relevance: A provider, or its name under `configs/relevance`; for pictures.
        segmenter: A segmenter, or its name under `configs/segmenter`; for pictures.
        mask: The region, bool (H, W), instead of the segmenter's.

    Raises:
        TargetError: the concept is not in the answer or not in the picture, or nothing was drawn.
        RelevanceError, ScoreError: a gradient, an activation or a score is not finite.
        ConfigError, InputError, ModelError: an argument or the model is of the wrong kind.
    """
    concept = concept_of(concept) if isinstance(concept, str) else concept
    method: Method = _named("reduction", reduction)
    region = found = None
    if modality == "text":
        target = text_target(mllm, generation, concept)
    elif modality == "image":
        region = _region(generation, concept, segmenter, mask)
        provider: Relevance = _named("relevance", relevance)
        provider = replace(provider, signed=provider.signed or method.needs.signed)
        found = provider(mllm, generation, torch.from_numpy(region.pixels))
        target = image_target(generation, found)
    else:
        raise InputError(f'modality must be "text" or "image", got {modality!r}')
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
    segmenter: str | Segmenter,
    mask: NDArray[np.bool_] | None,
) -> Mask:
    if generation.image is None:
        raise TargetError(f"nothing was drawn: the answer {generation.text!r} has no picture")
    if mask is not None:
        region = Mask(mask, float(mask.any()))
    else:
        chosen: Segmenter = _named("segmenter", segmenter)
        region = chosen.segment([generation.image], [concept])[0]
    if region.empty:
        raise TargetError(f"the mask is empty: no {concept.name} was found in the picture")
    return region


def _named(group: str, given: Any) -> Any:
    return _option(group, given) if isinstance(given, str) else given


#: Options hold no state but a segmenter's network, which is read once.
_option = lru_cache(maxsize=32)(option)
