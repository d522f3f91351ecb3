"""An item on its way through the chain, and what goes wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from torch import Tensor

from nam.data.items import Item
from nam.hooks import Recorded
from nam.segmenter.base import Mask
from nam.types import MEDIA, Concept, Generation, Medium, Modality, Scores, Target


@dataclass(eq=False)
class Work:
    """An item on its way; each stage adds what it finds.

    Attributes:
        item: What is asked.
        generation: What the model answered.
        words: Its answer in words, where words and picture are answers of their own.
        recorded: What was read of the generation.
        mask: Where the concept is in what was drawn.
        gradient: Of that region by the hidden states at the [IMG] positions, (P, H).
        targets: By modality, and whether the direction is signed.
        scores: By every method that could give them.
        errors: Why a modality has no scores; under "" what concerns the whole item.
    """

    item: Item
    generation: Generation | None = None
    words: Generation | None = None
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

    @property
    def medium(self) -> Medium | None:
        """What is to be drawn, if anything is."""
        return next((medium for medium in MEDIA if medium in self.item.modalities), None)

    @property
    def wants_drawn(self) -> bool:
        """Whether scores of what was drawn are asked for and still possible."""
        return self.medium is not None and self.wants(self.medium)

    def wants(self, modality: Modality) -> bool:
        """Whether scores of this modality are asked for and still possible."""
        return modality in self.item.modalities and not {"", modality} & self.errors.keys()


def apart(item: Item) -> list[Item]:
    """The item asked for each of its modalities alone."""
    return [replace(item, modalities=(modality,)) for modality in item.modalities]


def joined(item: Item, parts: Sequence[Work]) -> Work:
    """One item of the parts that `apart` made of it: the answer that was drawn, and the words beside it."""
    if len(parts) == 1:
        return parts[0]
    said = next((part for part in parts if part.medium is None), None)
    drawn = next((part for part in parts if part.medium is not None and part.generation), parts[-1])
    errors: dict[str, str] = {
        part.item.modalities[0]: reason for part in parts for reason in part.errors.values()
    }
    why = {part.errors.get("") for part in parts}
    if len(why) == 1 and None not in why:
        errors = dict(parts[0].errors)  # it concerns the item, not one of its answers
    return Work(
        item,
        generation=drawn.generation or (said.generation if said else None),
        words=said.generation if said else None,
        mask=drawn.mask,
        targets={key: target for part in parts for key, target in part.targets.items()},
        scores=[one for part in parts for one in part.scores],
        errors=errors,
    )


def blame(where: str) -> Callable[[Work, str], None]:
    """What writes down why an item has no scores: of a modality, or "" for the whole item."""

    def write(work: Work, why: str) -> None:
        work.errors[where] = why

    return write


def blame_aim(aim: tuple[Work, Modality], why: str) -> None:
    """Write down why an item has no scores of a modality."""
    aim[0].errors[aim[1]] = why


def blame_drawn(work: Work, why: str) -> None:
    """Write down why an item has no scores of what was drawn."""
    work.errors[work.medium or ""] = why


def was_drawn(work: Work) -> bool:
    """Whether there is what was to be drawn; an answer without it is the item's error."""
    out = work.generation
    if out is None or work.medium is None:
        return False
    there = out.image is not None and out.medium == work.medium
    if not there:
        blame_drawn(work, f"nothing was drawn: the answer announces no {MEDIA[work.medium]}")
    return there
