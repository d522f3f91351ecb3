"""The chain from items to scores: generate, segment, relevance, reduce. What goes wrong with a sample stays
with that sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import cast

import torch
from torch import Tensor

from nam.clock import Clock
from nam.data.items import Item
from nam.errors import ConfigError
from nam.halving import Limit, halve
from nam.hooks import Recorded, Recorder
from nam.hooks.sites import Where
from nam.mllm.base import MLLM, Draw
from nam.reduction.base import Method, contexts_of, scores_of
from nam.regions import regions_of
from nam.relevance.base import Relevance, RelevanceError, RelevanceMap, relevance_of
from nam.segmenter.base import Mask, Segmenter
from nam.targets import image_target, text_target
from nam.types import MEDIA, Modality
from nam.work import Work, apart, blame, blame_aim, blame_drawn, joined, was_drawn


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
        asked = [self._asked(item) for item in items]
        if self.mllm.draws_tokens:
            # Words and a picture are two answers: whoever wants both asks twice.
            parts = [apart(item) for item in asked]
            works = iter(self._chain([one for some in parts for one in some], record, clock))
            sorted_out = [list(islice(works, len(some))) for some in parts]
            found = [joined(item, some) for item, some in zip(asked, sorted_out, strict=True)]
        else:
            found = self._chain(asked, record, clock)
        clock.count("samples", len(found))
        clock.count("answers", sum(work.generation is not None for work in found))
        clock.count("pictures", sum(bool(work.generation and work.generation.image) for work in found))
        return found

    def _chain(
        self, items: Sequence[Item], record: Callable[[], Recorder] | None, clock: Clock
    ) -> list[Work]:
        works = [Work(item, errors={"": item.error} if item.error else {}) for item in items]
        for work in works:
            if not work.errors and work.item.sample.concept is None:
                work.errors[""] = "there is no concept to look for"
        by_tokens = self.mllm.draws_tokens
        with clock("generate"):
            asked = [work for work in works if not work.errors]
            for medium in (*MEDIA, None):
                part = [work for work in asked if work.medium == medium]
                draw: Draw = self.draw if medium else False
                if medium and (draw is True or (by_tokens and draw == "auto")):
                    draw = True if medium == "image" else medium
                # A picture of tokens is read where its target is, once that is known.
                kept = None if medium and by_tokens else record
                answer = partial(self._answer, draw=draw, record=kept)
                halve(answer, part, blame(""), self._limit("generate"))
        with clock("replay"):
            later = [work for work in works if by_tokens and work.medium]
            unread = [work for work in works if work.generation and not work.recorded and work not in later]
            halve(self._replay, unread, blame(""), self._limit("replay"))
        with clock("segment"):
            pictured = [work for work in works if work.wants_drawn and was_drawn(work)]
            halve(self._segment, pictured, blame_drawn, self._limit("segment"))
        with clock("relevance"):
            found = [work for work in pictured if work.wants_drawn and not by_tokens]
            halve(self._pull, found, blame_drawn, self._limit("relevance"))
        with clock("reduce"):
            self._reduce(works)
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
        # Positions of the answer; of a picture made of tokens, those of its target.
        where: Where = "answer"
        if works[0].targets:
            where = [next(iter(work.targets.values())).positions for work in works]
        recorder = Recorder(self.mllm, where=where)
        with torch.no_grad():
            self.mllm.replay([work.answer for work in works], record=recorder)
        for work, recorded in zip(works, recorder.recorded, strict=True):
            work.recorded = recorded

    def _segment(self, works: Sequence[Work]) -> None:
        masks = regions_of(
            [work.answer for work in works],
            [work.concept for work in works],
            self.segmenter,
            given=[work.item.masks for work in works],
            times=[work.item.time for work in works],
        )
        for work, mask in zip(works, masks, strict=True):
            work.mask = mask
            if mask.empty:
                what = f"no {work.concept.name} was found in the {MEDIA[work.answer.medium]}"
                blame_drawn(work, f"the mask is empty: {what}")

    def _pull(self, works: Sequence[Work]) -> None:
        masks = [torch.from_numpy(cast(Mask, work.mask).pixels) for work in works]
        found = self._gradient.batch(self.mllm, [work.answer for work in works], masks)
        for work, one in zip(works, found, strict=True):
            if isinstance(one, RelevanceError):
                blame_drawn(work, str(one))
            else:
                work.gradient = one.values

    def _reduce(self, works: Sequence[Work]) -> None:
        aims: list[tuple[Work, Modality]] = []
        modalities: tuple[Modality, ...] = ("text", *MEDIA)
        for modality in modalities:
            mine = [work for work in works if work.wants(modality) and work.generation is not None]
            halve(self._aim, [(work, modality) for work in mine], blame_aim)
            unread = [work for work in mine if work.wants(modality) and work.recorded is None]
            halve(self._replay, unread, blame(modality), self._limit("replay"))
            aims += [(work, modality) for work in mine if work.wants(modality)]
        for name, method in self.methods.items():
            wanted = [(work, modality) for work, modality in aims if work.wants(modality)]
            halve(partial(self._score, name=name, method=method), wanted, blame_aim, self._limit(name))

    def _aim(self, aims: Sequence[tuple[Work, Modality]]) -> None:
        for work, modality in aims:
            if modality == "text":
                target = text_target(self.mllm, work.answer, work.concept)
                work.targets |= {("text", signed): target for signed in self.signs}
                continue
            if self.mllm.draws_tokens:
                region = torch.from_numpy(cast(Mask, work.mask).pixels)
                target = self.mllm.picture_target(work.answer, region)
                work.targets |= {(modality, signed): target for signed in self.signs}
                continue
            gradient, hidden = cast(Tensor, work.gradient), cast(Tensor, work.answer.hidden)
            for signed in self.signs:
                how = self.relevance.aggregate
                values = relevance_of(hidden, gradient, signed=signed, aggregate=how)
                found = RelevanceMap(values, signed, cost=0.0)
                work.targets[modality, signed] = image_target(work.answer, found)

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
