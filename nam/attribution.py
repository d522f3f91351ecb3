"""The chain from items to scores: generate, segment, relevance, reduce. What goes wrong with a sample stays
with that sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import cast

import torch
from torch import Tensor

from nam.clock import Clock
from nam.data.items import Item
from nam.errors import ConfigError
from nam.halving import Limit, halve
from nam.hooks import Recorded, Recorder
from nam.mllm.base import MLLM, Draw
from nam.reduction.base import Method, contexts_of, scores_of
from nam.relevance.base import Relevance, RelevanceError, RelevanceMap, relevance_of
from nam.segmenter.base import Mask, Segmenter
from nam.targets import image_target, text_target
from nam.types import Concept, Generation, Modality, Scores, Target


@dataclass(eq=False)
class Work:
    """An item on its way; each stage adds what it finds.

    Attributes:
        item: What is asked.
        generation: What the model answered.
        recorded: What was read meanwhile.
        mask: Where the concept is in the drawn picture.
        gradient: Of that region by the hidden states at the [IMG] positions, (P, H).
        targets: By modality, and whether the direction is signed.
        scores: By every method that could give them.
        errors: Why a modality has no scores; under "" what concerns the whole item.
    """

    item: Item
    generation: Generation | None = None
    recorded: Recorded | None = None
    mask: Mask | None = None
    gradient: Tensor | None = None
    targets: dict[tuple[Modality, bool], Target] = field(default_factory=dict)
    scores: list[Scores] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)

    @property
    def concept(self) -> Concept:
        """What is looked for."""
        return cast(Concept, self.item.sample.concept)

    @property
    def answer(self) -> Generation:
        """What the model answered, once it has."""
        return cast(Generation, self.generation)

    def wants(self, modality: Modality) -> bool:
        """Whether scores of this modality are asked for and still possible."""
        return modality in self.item.modalities and not {"", modality} & self.errors.keys()


class Attributor:
    """Scores of items by one or several methods.

    Args:
        mllm: The model.
        segmenter: Finds the concept in the drawn picture.
        relevance: From that region to the hidden states; methods that need its signed form get that.
        methods: By the name that tables call them.
        draw: "auto" draws when the model announces a picture, True for every item that asks for one.
        max_new_tokens: Most words of an answer.

    Raises:
        ConfigError: a method needs signed relevance, which the provider cannot combine as it should.
    """

    def __init__(
        self,
        *,
        mllm: MLLM,
        segmenter: Segmenter,
        relevance: Relevance,
        methods: Mapping[str, Method],
        draw: Draw = "auto",
        max_new_tokens: int = 40,
    ) -> None:
        if not methods:
            raise ConfigError("no method is given: set reduction=nam, or several with reduction=[nam,acu]")
        self.mllm, self.segmenter, self.relevance = mllm, segmenter, relevance
        self.methods, self.draw, self.max_new_tokens = dict(methods), draw, max_new_tokens
        self.signs = {relevance.signed or method.needs.signed for method in methods.values()}
        for signed in self.signs:
            replace(relevance, signed=signed)  # refuses a way of combining that has no meaning
        # Both forms follow from the gradient, which is the expensive part.
        self._gradient = replace(relevance, signed=True, aggregate="none")
        self._limits: dict[str, Limit] = {}

    def __call__(
        self,
        items: Sequence[Item],
        *,
        record: Callable[[], Recorder] | None = None,
        clock: Clock | None = None,
    ) -> list[Work]:
        """Answer and attribute items; what is found for one does not depend on the others.

        Args:
            items: What is asked.
            record: Makes what reads activations while generating; None replays the answers instead.
            clock: Gets the time of each stage.

        Returns:
            One for each item, in their order; what went wrong with an item is in its `errors`.

        Raises:
            ModelError, ConfigError: something that concerns every item alike.
        """
        clock = clock or Clock()
        works = [Work(self._asked(item), errors={"": item.error} if item.error else {}) for item in items]
        for work in works:
            if not work.errors and work.item.sample.concept is None:
                work.errors[""] = "there is no concept to look for"
        with clock("generate"):
            asked = [work for work in works if not work.errors]
            for drawn in (True, False):
                part = [work for work in asked if ("image" in work.item.modalities) is drawn]
                draw = self.draw if drawn else False
                answer = partial(self._answer, draw=draw, record=record)
                halve(answer, part, _blame(""), self._limit("generate"))
        with clock("replay"):
            unread = [work for work in works if work.generation and work.recorded is None]
            halve(self._replay, unread, _blame(""), self._limit("replay"))
        with clock("segment"):
            pictured = [work for work in works if work.wants("image") and _was_drawn(work)]
            halve(self._segment, pictured, _blame("image"), self._limit("segment"))
        with clock("relevance"):
            found = [work for work in pictured if work.wants("image")]
            halve(self._pull, found, _blame("image"), self._limit("relevance"))
        with clock("reduce"):
            self._reduce(works)
        clock.count("samples", len(works))
        clock.count("answers", sum(work.generation is not None for work in works))
        clock.count("pictures", sum(bool(work.generation and work.generation.image) for work in works))
        return works

    def _limit(self, stage: str) -> Limit:
        """How many fit into memory at once, as this stage has found so far."""
        return self._limits.setdefault(stage, Limit(stage))

    def _asked(self, item: Item) -> Item:
        """The item; of a model that answers in words alone, only words are asked where both are wanted."""
        words_alone = not self.mllm.draws and "text" in item.modalities
        return replace(item, modalities=("text",)) if words_alone else item

    def _answer(self, works: Sequence[Work], *, draw: Draw, record: Callable[[], Recorder] | None) -> None:
        recorder = record() if record else None
        generations = self.mllm.generate_batch(
            [work.item.sample for work in works],
            max_new_tokens=self.max_new_tokens,
            draw=draw,
            record=recorder,
        )
        for row, (work, generation) in enumerate(zip(works, generations, strict=True)):
            work.generation = generation
            work.recorded = recorder.recorded[row] if recorder else None

    def _replay(self, works: Sequence[Work]) -> None:
        recorder = Recorder(self.mllm, where="answer")
        with torch.no_grad():
            self.mllm.replay([work.answer for work in works], record=recorder)
        for work, recorded in zip(works, recorder.recorded, strict=True):
            work.recorded = recorded

    def _segment(self, works: Sequence[Work]) -> None:
        images = [work.answer.image for work in works if work.answer.image is not None]
        masks = self.segmenter.segment(
            images, [work.concept for work in works], given=[work.item.masks for work in works]
        )
        for work, mask in zip(works, masks, strict=True):
            work.mask = mask
            if mask.empty:
                work.errors["image"] = f"the mask is empty: no {work.concept.name} was found in the picture"

    def _pull(self, works: Sequence[Work]) -> None:
        masks = [torch.from_numpy(cast(Mask, work.mask).pixels) for work in works]
        found = self._gradient.batch(self.mllm, [work.answer for work in works], masks)
        for work, one in zip(works, found, strict=True):
            if isinstance(one, RelevanceError):
                work.errors["image"] = str(one)
            else:
                work.gradient = one.values

    def _reduce(self, works: Sequence[Work]) -> None:
        aims: list[tuple[Work, Modality]] = []
        for modality in ("text", "image"):
            mine = [work for work in works if work.wants(modality) and work.generation is not None]
            halve(self._aim, [(work, modality) for work in mine], _blame_aim)
            aims += [(work, modality) for work in mine if work.wants(modality)]
        for name, method in self.methods.items():
            wanted = [(work, modality) for work, modality in aims if work.wants(modality)]
            halve(partial(self._score, name=name, method=method), wanted, _blame_aim, self._limit(name))

    def _aim(self, aims: Sequence[tuple[Work, Modality]]) -> None:
        for work, modality in aims:
            if modality == "text":
                target = text_target(self.mllm, work.answer, work.concept)
                work.targets |= {("text", signed): target for signed in self.signs}
                continue
            gradient, hidden = cast(Tensor, work.gradient), cast(Tensor, work.answer.hidden)
            for signed in self.signs:
                how = self.relevance.aggregate
                values = relevance_of(hidden, gradient, signed=signed, aggregate=how)
                found = RelevanceMap(values, signed, cost=0.0)
                work.targets["image", signed] = image_target(work.answer, found)

    def _score(self, aims: Sequence[tuple[Work, Modality]], *, name: str, method: Method) -> None:
        signed = self.relevance.signed or method.needs.signed
        contexts = contexts_of(
            self.mllm,
            [work.answer for work, _ in aims],
            [work.targets[modality, signed] for work, modality in aims],
            recorded=[cast(Recorded, work.recorded) for work, _ in aims],
        )
        scored = scores_of(method, contexts, [work.concept for work, _ in aims])
        for (work, _), scores in zip(aims, scored, strict=True):
            work.scores.append(replace(scores, method=name))


def _blame(where: str) -> Callable[[Work, str], None]:
    def blame(work: Work, why: str) -> None:
        work.errors[where] = why

    return blame


def _blame_aim(aim: tuple[Work, Modality], why: str) -> None:
    aim[0].errors[aim[1]] = why


def _was_drawn(work: Work) -> bool:
    """Whether there is a picture; an answer without one is the item's error."""
    if work.generation is not None and work.generation.image is None:
        work.errors["image"] = "nothing was drawn: the answer announces no picture"
    return work.generation is not None and work.generation.image is not None
