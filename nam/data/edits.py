"""Prompts to edit by, and to judge an edit by, about the things of the scenes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from PIL import Image

from nam.errors import ConfigError
from nam.types import Sample
from nam.world.dialogues import DRAW, HELD_DRAW
from nam.world.knowledge import riddles
from nam.world.language import canonical
from nam.world.render import render
from nam.world.scene import NOUNS, SPLITS, Scene, combinations, place_thing

#: draw: a request to draw a thing; caption: a picture to describe; riddle and draw_riddle: what is known.
PromptKind = Literal["draw", "caption", "riddle", "draw_riddle"]


@dataclass(frozen=True, eq=False)
class Asked:
    """A sample, and what it asks for.

    Attributes:
        sample: What is asked.
        kind: In which way.
        noun: The thing.
        colour, place: Of the scene; None for riddles.
    """

    sample: Sample
    kind: PromptKind
    noun: str
    colour: str | None = None
    place: str | None = None

    @property
    def draws(self) -> bool:
        """Whether a picture is asked for."""
        return self.kind in ("draw", "draw_riddle")


@dataclass(frozen=True, kw_only=True)
class ScenePairs:
    """Requests about the things of the scenes. Training prompts never meet the held-out ones.

    Attributes:
        draw: Requests to draw a thing, "draw a red cat on the grass .", of each side of an edit.
        caption: Rendered pictures of it to be described.
        others: Requests to draw each other thing, which are to stay.
        others_caption: Rendered pictures of each other thing.
        others_riddle: Riddles about each other thing.
        seed: Of the whole.
    """

    draw: int = 24
    caption: int = 8
    others: int = 6
    others_caption: int = 2
    others_riddle: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        for key in ("draw", "caption", "others", "others_caption", "others_riddle", "seed"):
            if getattr(self, key) < 0:
                raise ConfigError(f"prompts.{key} must be at least 0, got {getattr(self, key)}")

    def of(self, noun: str, *, like: str | None = None) -> list[Asked]:
        """Requests for one side of an edit; `like`: the thing whose colours, places and poses are used, so
        that the requests for source and target differ in the word alone.

        Raises:
            ConfigError: it is no thing of the scenes.
        """
        kinds: tuple[tuple[PromptKind, int], ...] = (("draw", self.draw), ("caption", self.caption))
        return [one for kind, count in kinds for one in self._ask(noun, kind, count, like=like)]

    def kept(self, source: str) -> list[Asked]:
        """Requests about every other thing."""
        kinds: tuple[tuple[PromptKind, int], ...] = (
            ("draw", self.others),
            ("caption", self.others_caption),
            ("riddle", self.others_riddle),
        )
        nouns = [noun for noun in NOUNS if noun != source]
        return [one for noun in nouns for kind, count in kinds for one in self._ask(noun, kind, count)]

    def held_out(self, noun: str, kind: PromptKind, count: int, *, seeds: int = 1) -> list[Asked]:
        """Requests in combinations and wordings that the edit never saw, each with so many seeds."""
        asked = self._ask(noun, kind, count, held_out=True)
        return [_reseeded(one, seed) for one in asked for seed in range(seeds)]

    def _ask(
        self, noun: str, kind: PromptKind, count: int, *, held_out: bool = False, like: str | None = None
    ) -> list[Asked]:
        if noun not in NOUNS:
            raise ConfigError(f"{noun!r} is no thing of the scenes: expected one of {', '.join(NOUNS)}")
        rng = np.random.default_rng([self.seed, NOUNS.index(like or noun), len(kind), held_out])
        if kind in ("riddle", "draw_riddle"):
            fitting = [
                r.prompt
                for r in riddles(held_out=held_out)
                if r.answer_noun == noun and r.draw == (kind == "draw_riddle")
            ]
            order = rng.permutation(len(fitting))[:count]
            return [
                Asked(Sample(id=f"{noun}-{kind}-{i}", prompt=fitting[at], seed=i), kind, noun)
                for i, at in enumerate(order.tolist())
            ]
        split = SPLITS[-1] if held_out else SPLITS[0]
        known = [(colour, place) for n, colour, place in combinations(split) if n == (like or noun)]
        order = rng.permutation(len(known))
        found = []
        for i in range(count):
            colour, place = known[order[i % len(known)]]
            found.append(self._scene(noun, kind, colour, place, i, rng, held_out=held_out))
        return found

    def _scene(
        self,
        noun: str,
        kind: PromptKind,
        colour: str,
        place: str,
        number: int,
        rng: np.random.Generator,
        *,
        held_out: bool,
    ) -> Asked:
        scene = Scene((place_thing(rng, noun=noun, colour=colour),), place)
        wordings: Sequence[str] = HELD_DRAW if held_out else tuple(dict.fromkeys(DRAW))
        wording = wordings[int(rng.integers(len(wordings)))]
        seed = int(rng.integers(2**31))
        prompt, image = wording.format(x=canonical(scene)), None
        if kind == "caption":
            prompt, image = "a picture of", Image.fromarray(render(scene, rng=rng).image)
        sample = Sample(id=f"{noun}-{kind}-{number}", prompt=prompt, image=image, seed=seed)
        return Asked(sample, kind, noun, colour, place)


def _reseeded(asked: Asked, number: int) -> Asked:
    sample = asked.sample
    return replace(asked, sample=replace(sample, id=f"{sample.id}-{number}", seed=sample.seed + number))
