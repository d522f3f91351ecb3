"""The interface of an attribution method, and what it is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from nam.errors import InputError, ScoreError
from nam.hooks import Recorded, Recorder
from nam.mllm.norm import read_final_norm
from nam.types import Concept, Generation, Scores, Target

if TYPE_CHECKING:
    from nam.mllm.base import MLLM

#: The final norm between a neuron and the target: left out as in the paper, or folded into the direction with
#: each position's scale held, so that neurons and the rest add up to the true logit.
Norm = Literal["ignore", "fold"]


@dataclass(frozen=True)
class Needs:
    """What a method costs beyond the generation.

    Attributes:
        activations: It reads the activations at the target's positions.
        backward: It runs a forward and a backward pass of the language model.
        rerun: It runs the model again with interventions.
        signed: For a picture it is meant for signed relevance, the gradient.
    """

    activations: bool = True
    backward: bool = False
    rerun: bool = False
    signed: bool = False


@dataclass(frozen=True, eq=False)
class Context:
    """One target in one generation, with what was recorded at its positions.

    Attributes:
        mllm: The model.
        generation: What it answered.
        target: What is attributed, at P positions.
        activations: (L, P, d) float32 (float64 for such a model), on the model's device.
        stream: What enters the final norm, (P, H), or None where the model has no norm.
    """

    mllm: MLLM
    generation: Generation
    target: Target
    activations: Tensor
    stream: Tensor | None

    def directions(self, *, norm: Norm, region: bool = True) -> Tensor:
        """The target's directions in the residual stream before the final norm, (P, H).

        Args:
            norm: Whether the final norm is folded in.
            region: For a picture, whether the relevance of the region is used, or 1 in every dimension.

        Raises:
            ModelError: the model's norm cannot be folded.
        """
        directions = self.after_norm(region=region)
        if norm == "ignore":
            return directions
        folded = read_final_norm(self.mllm)
        if self.stream is None:
            raise InputError("norm=fold needs what enters the final norm, which was not recorded")
        return folded.pull(directions, self.stream)

    def after_norm(self, *, region: bool = True) -> Tensor:
        """The target's directions after the final norm, (P, H); arguments as in `directions`."""
        given = self.target.directions.to(self.activations)
        return given if region or self.target.modality == "text" else torch.ones_like(given)


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """An attribution method: a frozen dataclass of its options, in a file and a yaml of its name.

    Attributes:
        name: What tables call it.
        needs: What it costs.
    """

    name: ClassVar[str]
    needs: ClassVar[Needs] = Needs()

    def score(self, context: Context) -> Tensor:
        """The score of every neuron for one target, (L, d) float32; see `score_batch`."""
        return self.score_batch([context])[0]

    def score_batch(self, contexts: Sequence[Context]) -> list[Tensor]:
        """The scores (L, d) float32 of several targets in one model; they do not depend on one another.

        Raises:
            ScoreError: an activation or a score is NaN or infinite; the message names the target's place.
        """
        for index, context in enumerate(contexts):
            _require_finite(context.activations, "an activation", index)
        if not contexts:
            return []
        scores = [found.to(torch.float32) for found in self._score_batch(contexts)]
        for index, found in enumerate(scores):
            _require_finite(found, f"a score of {self.name}", index)
        return scores

    @abstractmethod
    def _score_batch(self, contexts: Sequence[Context]) -> list[Tensor]:
        """The scores (L, d) of at least one context."""


def contexts_of(
    mllm: MLLM,
    generations: Sequence[Generation],
    targets: Sequence[Target],
    *,
    recorded: Sequence[Recorded] | None = None,
) -> list[Context]:
    """What methods are given, one for each pair of generation and target.

    Args:
        mllm: The model.
        generations: What it answered.
        targets: One for each generation; for several targets, give the generation several times.
        recorded: What `generate(record=...)` read of each generation; None to replay them, without gradients.
    """
    if not len(generations) == len(targets) == len(targets if recorded is None else recorded):
        raise InputError("expected a target (and what was recorded, if anything was) for each generation")
    if not generations:
        return []
    if recorded is None:
        recorder = Recorder(mllm, where=[target.positions for target in targets])
        with torch.no_grad():
            mllm.replay(generations, record=recorder)
        recorded = recorder.recorded
    parts = [found.at(target.positions) for found, target in zip(recorded, targets, strict=True)]
    return [
        Context(mllm, generation, target, part.activations, part.stream)
        for generation, target, part in zip(generations, targets, parts, strict=True)
    ]


def scores_of(method: Method, contexts: Sequence[Context], concepts: Sequence[Concept]) -> list[Scores]:
    """Each context's scores with their labels, on the CPU."""
    scored = method.score_batch(contexts)
    return [
        Scores(
            concept=concept,
            modality=context.target.modality,
            method=method.name,
            scores=scores.cpu(),
            activations=context.activations.mean(1).to(torch.float32).cpu(),
        )
        for context, concept, scores in zip(contexts, concepts, scored, strict=True)
    ]


def project(mllm: MLLM, directions: Tensor) -> Iterator[Tensor]:
    """<value vector, direction> of every neuron, layer by layer: (N, d) for directions (N, H).

    One matrix product a layer for all directions; half-precision weights are widened one layer at a time.
    """
    for site in mllm.ffn_sites:
        yield directions @ site.value_vectors.detach().to(directions)


def contributions_of(contexts: Sequence[Context], directions: Sequence[Tensor]) -> list[Tensor]:
    """What each neuron adds along each context's directions (P, H) at each position: (L, P, d) a context."""
    sizes = [len(rows) for rows in directions]
    found = [torch.empty_like(context.activations) for context in contexts]
    for layer, projected in enumerate(project(contexts[0].mllm, torch.cat(list(directions)))):
        for out, context, part in zip(found, contexts, projected.split(sizes), strict=True):
            torch.mul(context.activations[layer], part, out=out[layer])
    return found


def _require_finite(values: Tensor, what: str, index: int) -> None:
    if bool(values.isfinite().all()):
        return
    place = (~values.isfinite()).nonzero()[0].tolist()
    raise ScoreError(
        f"target {index}: {what} is {values[tuple(place)].item()} at layer {place[0]}, unit {place[-1]}"
    )
