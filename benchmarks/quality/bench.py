"""What every section works with: the model, its judge, how much to measure, and how answers are marked."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track
from torch import nn

from benchmarks.quality.rows import Measure
from nam.errors import ModelError
from nam.evaluate.judge import Judge, Verdict, load_judge
from nam.mllm.base import Draw
from nam.mllm.gill import GILL
from nam.mllm.load import load
from nam.mllm.parts import freeze, read_pretrained
from nam.types import Generation
from nam.world.language import Facts
from nam.world.render import render
from nam.world.scene import Scene, sample_scene


@dataclass(frozen=True)
class Bench:
    """A weights folder under measurement; its parts are read when a section first needs them.

    Attributes:
        folder: Weights folder.
        out: Where results and figures go.
        count: Pictures drawn per row and seed; what needs no drawing is cheap and takes a multiple of it.
        seeds: Every row is measured once per seed.
        batch: Answers generated at once.
        runs: Repetitions of what is timed.
    """

    folder: Path
    out: Path
    count: int = 100
    seeds: tuple[int, ...] = (0, 1, 2)
    batch: int = 16
    runs: int = 5

    @cached_property
    def mllm(self) -> GILL:
        """The model."""
        model = load(self.folder)
        if not isinstance(model, GILL):
            raise ModelError(f"{self.folder}: expected a GILL, got {type(model).__name__}")
        return model

    @cached_property
    def judge(self) -> Judge:
        """The judge of the folder."""
        return load_judge(self.folder)

    @cached_property
    def segmenter(self) -> nn.Module:
        """The segmenter of the folder."""
        from transformers import SegformerForSemanticSegmentation

        path = self.folder / "segmenter"
        return freeze(read_pretrained(SegformerForSemanticSegmentation, path, torch.float32))

    def ask(
        self,
        prompts: Sequence[str],
        *,
        images: Sequence[Any] | None = None,
        seed: int = 0,
        draw: Draw = False,
        what: str = "asking",
    ) -> list[Generation]:
        """The model's answers; the picture of prompt i has the noise of number i of that seed."""
        answers: list[Generation] = []
        size = self.batch if draw else 4 * self.batch
        for start in track(range(0, len(prompts), size), description=what, transient=True):
            part = slice(start, start + size)
            seeds = noise_seeds(seed, len(prompts))[part]
            given = None if images is None else list(images[part])
            answers += self.mllm.generate(prompt=list(prompts[part]), image=given, seed=seeds, draw=draw)
        return answers

    def see(self, pictures: Sequence[Image.Image | None]) -> list[Facts]:
        """What the judge finds in each picture; nothing where no picture was drawn."""
        drawn = [picture for picture in pictures if picture is not None]
        found: list[Verdict] = self.judge(drawn) if drawn else []
        verdicts = iter(found)
        return [Facts(()) if picture is None else next(verdicts).facts for picture in pictures]


@dataclass(frozen=True)
class Match:
    """Where what was found agrees with what was asked. Extra things are wrong; what was left open is right.

    nouns: exactly these things. colours: exactly these colours, on whatever things. things: every thing in
    its own colour and no other. place: this place.
    """

    nouns: bool
    colours: bool
    things: bool
    place: bool

    @property
    def everything(self) -> bool:
        """Things, their colours and the place."""
        return self.things and self.place


def match(asked: Facts, found: Facts) -> Match:
    """Compare; the order of the things does not matter."""
    nouns = sorted(noun for noun, _ in asked.things) == sorted(noun for noun, _ in found.things)
    wanted = [colour for _, colour in asked.things]
    got = dict(found.things)
    return Match(
        nouns=nouns,
        colours=None in wanted or sorted(map(str, wanted)) == sorted(str(c) for _, c in found.things),
        things=nouns and all(colour in (None, got[noun]) for noun, colour in asked.things),
        place=asked.place in (None, found.place),
    )


#: What a row can be about: an attribute of Match.
ASPECTS = {
    "nouns": "noun",
    "colours": "colour",
    "things": "things and their colours",
    "place": "place",
    "everything": "all of it",
}


def shares(name: str, matches: Sequence[Sequence[Match]], aspects: Sequence[str]) -> dict[str, Measure]:
    """`name.aspect` -> share of matches, each of `matches` being one seed's."""
    return {
        f"{name}.{aspect}": Measure.share([[getattr(found, aspect) for found in seed] for seed in matches])
        for aspect in aspects
    }


def rng_for(name: str, seed: int) -> np.random.Generator:
    """The random numbers of one group of one seed, the same whatever else is measured."""
    return np.random.default_rng([zlib.crc32(name.encode()), seed])


def noise_seeds(seed: int, count: int) -> list[int]:
    """A seed for the noise of each of `count` pictures, different for different seeds."""
    return [1_000_000 * (seed + 1) + i for i in range(count)]


def scenes_of(
    rng: np.random.Generator, count: int, *, things: int | None, split: str = "test", pose: str = "shipped"
) -> list[Scene]:
    """Scenes with one or two things, or with None the training's mixture of both."""
    share = 0.35 if things is None else float(things == 2)
    return [sample_scene(rng, pose=pose, split=split, two_things=share) for _ in range(count)]


def renders_of(scenes: Sequence[Scene], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Pictures (B, 64, 64, 3) of scenes."""
    return np.stack([render(scene, rng=rng).image for scene in scenes])
