"""The interface of an attribution method, and what it is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from nam.checks import require_choices, whole
from nam.errors import ConfigError, InputError, ScoreError
from nam.hooks import Recorded
from nam.reduction.folding import Norm, norm_to_fold
from nam.reduction.reading import Reading
from nam.types import Concept, Generation, Scores, Target

if TYPE_CHECKING:
    from nam.mllm.base import MLLM


@dataclass(frozen=True)
class Needs:
    """What a method costs beyond the generation.

    Attributes:
        backward: It runs a forward and a backward pass of the language model.
        rerun: It runs the model again with interventions.
        signed: For a picture it is meant for signed relevance, the gradient.
    """

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
        reading: What was recorded at these positions.
    """

    mllm: MLLM
    generation: Generation
    target: Target
    reading: Reading

    @property
    def activations(self) -> Tensor:
        """(L, P, d) float32 (float64 for such a model), on the model's device."""
        return self.reading().activations

    @property
    def stream(self) -> Tensor | None:
        """What enters the final norm, (P, H), or None where the model has no norm."""
        return self.reading().stream

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
        folded = norm_to_fold(self.mllm)
        if self.stream is None:
            raise InputError("norm=fold needs what enters the final norm, which was not recorded")
        return folded.pull(directions, self.stream)

    def after_norm(self, *, region: bool = True) -> Tensor:
        """The target's directions after the final norm, (P, H); arguments as in `directions`."""
        like = self.mllm.unembedding
        given = self.target.directions.to(like.device, torch.promote_types(like.dtype, torch.float32))
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

    def __post_init__(self) -> None:
        require_choices(self, f"reduction.{self.name}")

    def _require_whole(self, **least: int) -> None:
        """Refuse options, by name, that are no integers of at least these values, with a ConfigError."""
        for option, value in least.items():
            key = f"reduction.{self.name}.{option}"
            whole(key, getattr(self, option), least=value, error=ConfigError)

    def score(self, context: Context) -> Tensor:
        """The score of every neuron for one target, (L, d) float32; see `score_batch`."""
        return self.score_batch([context])[0]

    def score_batch(self, contexts: Sequence[Context]) -> list[Tensor]:
        """The scores (L, d) float32 of several targets in one model; they do not depend on one another.

        Raises:
            ScoreError: an activation or a score is NaN or infinite; of several targets, the message names the
                place of the one.
        """
        unread = [index for index, context in enumerate(contexts) if not context.reading.there]
        _require_finite_activations(contexts, set(range(len(contexts))) - set(unread))
        if not contexts:
            return []
        scores = [found.to(torch.float32) for found in self._score_batch(contexts)]
        _require_finite_activations(contexts, unread)
        _require_finite(scores, f"a score of {self.name}", range(len(scores)), of=len(contexts))
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
    later: bool = False,
) -> list[Context]:
    """What methods are given, one for each pair of generation and target.

    Args:
        mllm: The model.
        generations: What it answered.
        targets: One for each generation; for several targets, give the generation several times.
        recorded: What `generate(record=...)` read of each generation; None to replay them, without gradients.
        later: Replay when activations are first asked for: a method that runs the model anyway then reads
            them itself. The model must not change meanwhile.
    """
    if not len(generations) == len(targets) == len(targets if recorded is None else recorded):
        raise InputError("expected a target (and what was recorded, if anything was) for each generation")
    if not generations:
        return []
    where = [target.positions for target in targets]
    if recorded is not None:
        readings = [Reading(found.at(positions)) for found, positions in zip(recorded, where, strict=True)]
    else:
        readings = Reading.later(mllm, generations, where)
        if not later:
            readings[0]()
    return [Context(mllm, *parts) for parts in zip(generations, targets, readings, strict=True)]


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


def _require_finite_activations(contexts: Sequence[Context], indices: Collection[int]) -> None:
    by_id = {id(contexts[index].activations): index for index in sorted(indices, reverse=True)}
    first = sorted(by_id.values())
    activations = [contexts[index].activations for index in first]
    _require_finite(activations, "an activation", first, of=len(contexts))


def _require_finite(tensors: Sequence[Tensor], what: str, indices: Sequence[int], *, of: int) -> None:
    """Refuse values that are not finite; `indices`: which of how many targets each tensor belongs to."""
    # What is not finite makes the sum so: one pass, and one look for all. A sum can also overflow.
    if not tensors or bool(torch.stack([values.sum() for values in tensors]).isfinite().all()):
        return
    for index, values in zip(indices, tensors, strict=True):
        if not bool(values.isfinite().all()):
            place = (~values.isfinite()).nonzero()[0].tolist()
            found = f"{what} is {values[tuple(place)].item()} at layer {place[0]}, unit {place[-1]}"
            raise ScoreError(f"target {index}: {found}" if of > 1 else found)
