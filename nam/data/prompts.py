"""Prompts about the things of the scenes: requests to draw, riddles, pictures to describe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from nam.data.concepts import concept_of
from nam.data.items import MODALITIES, Item
from nam.errors import ConfigError, nearest
from nam.types import Sample
from nam.world.dialogues import DRAW, HELD_DRAW
from nam.world.knowledge import riddles
from nam.world.language import canonical
from nam.world.render import render
from nam.world.scene import NOUNS, SPLITS, Scene, combinations, place_thing
from nam.world.words import a

#: What each kind of prompt is asked for. The things of a prompt: one, or the concept beside another thing.
KINDS: Mapping[str, str] = {
    "draw": "both",
    "draw_two": "both",
    "draw_riddle": "both",
    "riddle": "text",
    "caption": "text",
    "same": "both",
}


@dataclass(frozen=True, kw_only=True)
class ScenePrompts:
    """For every concept, so many prompts of each kind; each follows from the seed, its concept and number.

    Attributes:
        concepts: Things of the scenes; empty for all of them.
        draw: Requests to draw the thing in some colour at some place: "draw a red horse on the grass .".
        draw_two: The same beside another thing.
        draw_riddle: Requests to draw what a riddle means: "draw the animal that says meow .".
        riddle: Riddles to be answered in words: "what says meow ?".
        caption: Rendered pictures to be described.
        same: Rendered pictures to be described and drawn again.
        split: Combinations of thing, colour and place: train, val or test (never trained on).
        held_out: Phrasings that were never trained on.
        seed: Of the whole.
    """

    concepts: tuple[str, ...] = ()
    draw: int = 2
    draw_two: int = 1
    draw_riddle: int = 1
    riddle: int = 1
    caption: int = 1
    same: int = 0
    split: str = "test"
    held_out: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for noun in self.concepts:
            if noun not in NOUNS:
                raise ConfigError(
                    f"data.source.concepts: unknown thing {noun!r} ({nearest(str(noun), NOUNS)})"
                )
        if self.split not in SPLITS:
            raise ConfigError(f"data.source.split={self.split!r} is unknown ({nearest(self.split, SPLITS)})")
        for key in (*KINDS, "seed"):
            if getattr(self, key) < 0:
                raise ConfigError(f"data.source.{key} must be at least 0, got {getattr(self, key)}")

    @cached_property
    def _plan(self) -> tuple[tuple[str, str, int], ...]:
        """Thing, kind and number of every prompt."""
        nouns = tuple(dict.fromkeys(self.concepts)) or NOUNS
        return tuple((n, kind, i) for n in nouns for kind in KINDS for i in range(getattr(self, kind)))

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, index: int) -> Item:
        noun, kind, number = self._plan[index]
        found: dict[str, Any] = {"image": None, "masks": None}
        rng = np.random.default_rng([self.seed, NOUNS.index(noun), list(KINDS).index(kind), number])
        if kind in ("draw_riddle", "riddle"):
            asked = [r for r in riddles(held_out=self.held_out) if r.answer_noun == noun]
            fitting = [r.prompt for r in asked if r.draw == (kind == "draw_riddle")]
            prompt, caption = self._choose(fitting, noun, kind, number), a(noun)
        else:
            scene = self._scene(noun, kind, number, rng)
            caption = canonical(scene)
            wordings = HELD_DRAW if self.held_out else tuple(dict.fromkeys(DRAW))
            prompt = self._choose(wordings, noun, kind, number).format(x=caption)
            if kind in ("caption", "same"):
                prompt = "a picture of" if kind == "caption" else "draw the same as this picture ."
                rendered = render(scene, rng=rng)
                found = {"image": Image.fromarray(rendered.image), "masks": rendered.masks}
        return Item(
            index=index,
            sample=Sample(
                id=f"{noun}-{kind}-{number}",
                prompt=prompt,
                image=found["image"],
                seed=int(rng.integers(2**31)),
                concept=concept_of(noun),
                caption=caption,
            ),
            modalities=MODALITIES[KINDS[kind]],
            masks=found["masks"],
        )

    def _choose(self, options: Any, noun: str, kind: str, number: int) -> Any:
        """Option `number` of these in the concept's own random order: none comes twice before all did."""
        rng = np.random.default_rng([self.seed, NOUNS.index(noun), list(KINDS).index(kind)])
        return options[int(rng.permutation(len(options))[number % len(options)])]

    def _scene(self, noun: str, kind: str, number: int, rng: np.random.Generator) -> Scene:
        known = combinations(self.split)
        _, colour, place = self._choose([one for one in known if one[0] == noun], noun, kind, number)
        things = [(noun, colour)]
        if kind == "draw_two":
            beside = [(n, c) for n, c, p in known if p == place and n != noun]
            things.insert(int(rng.integers(2)), beside[int(rng.integers(len(beside)))])
        placed = [
            place_thing(rng, noun=n, colour=c, slot=slot, count=len(things))
            for slot, (n, c) in enumerate(things)
        ]
        return Scene(tuple(placed), place)
