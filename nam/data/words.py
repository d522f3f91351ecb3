"""Requests for concepts in words: any word, asked in every wording again and again."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from nam.checks import whole
from nam.data.concepts import concept_of
from nam.data.edits import Asked
from nam.data.items import Item, modalities_of
from nam.errors import ConfigError
from nam.types import Sample


@dataclass(frozen=True, kw_only=True)
class WordPrompts:
    """Every concept in every wording, `repeats` times with noise of its own.

    Attributes:
        concepts: Words.
        prompts: Wordings, in which {concept} stands for the word; each repeat takes the next one.
        repeats: Requests of each concept.
        modality: What is looked at: text, image or both.
        seed: Of the pictures' noise.

    Raises:
        ConfigError: there is no word or no wording, a word is empty or comes twice, or a wording has no place
            for the word.
    """

    concepts: tuple[str, ...]
    prompts: tuple[str, ...] = ("draw a {concept} .",)
    repeats: int = 10
    modality: str = "both"
    seed: int = 0

    def __post_init__(self) -> None:
        check_wordings(self.prompts, where="data.source.prompts")
        whole("data.source.repeats", self.repeats, least=1, error=ConfigError)
        if not self.concepts:
            raise ConfigError("data.source needs concepts")
        if len(set(self.concepts)) < len(self.concepts) or not all(map(str.strip, self.concepts)):
            raise ConfigError(f"data.source.concepts: expected different words, got {list(self.concepts)}")
        try:
            modalities_of(self.modality)
        except ValueError as error:
            raise ConfigError(f"data.source.{error}") from error

    def __len__(self) -> int:
        return len(self.concepts) * self.repeats

    def __getitem__(self, index: int) -> Item:
        place, number = divmod(index, self.repeats)
        word = self.concepts[place]
        prompt = self.prompts[number % len(self.prompts)].format(concept=word)
        sample = Sample(
            id=f"{word}-{number}",
            prompt=prompt,
            seed=_noise(self.seed, word, number),
            concept=concept_of(word),
            caption=prompt,
        )
        return Item(index=index, sample=sample, modalities=modalities_of(self.modality))


@dataclass(frozen=True, kw_only=True)
class WordPairs:
    """Requests that an edit is made on, and others that it is judged by, in wordings of one's own.

    Attributes:
        prompts: Wordings for the edit, in which {concept} stands for the word.
        held_out_prompts: Wordings that it is judged by.
        seed: Of the pictures' noise.

    Raises:
        ConfigError: as `WordPrompts`.
    """

    prompts: tuple[str, ...] = ("draw a {concept} .", "a picture of a {concept} .")
    held_out_prompts: tuple[str, ...] = ("show me a {concept} .",)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("prompts", "held_out_prompts"):
            check_wordings(getattr(self, name), where=f"evaluate.parts.norms.prompts.{name}")

    def of(self, noun: str, *, like: str | None = None) -> list[Asked]:
        """Requests for one side of an edit; they are the same for both but for the word, and their noise is
        that of `like`."""
        return [
            Asked(
                Sample(f"{noun}-{n}", text.format(concept=noun), None, _noise(self.seed, like or noun, n)),
                "draw",
                noun,
            )
            for n, text in enumerate(self.prompts)
        ]

    def held_out(self, noun: str, kind: str, count: int, *, seeds: int = 1) -> list[Asked]:
        """The first `count` held-out requests, each with so many seeds; `kind` is "draw"."""
        found = []
        for n, text in enumerate(self.held_out_prompts[:count]):
            noise = _noise(self.seed, f"held out {noun}", n)
            sample = Sample(id=f"{noun}-held-{n}", prompt=text.format(concept=noun), seed=noise)
            found += [
                Asked(replace(sample, id=f"{sample.id}-{k}", seed=noise + k), "draw", noun)
                for k in range(seeds)
            ]
        return found


def check_wordings(prompts: tuple[str, ...], *, where: str) -> None:
    """Refuse wordings that do not say the concept. Raises ConfigError."""
    for prompt in prompts:
        try:
            fits = "horse" in prompt.format(concept="horse")
        except (KeyError, IndexError, ValueError, AttributeError):
            fits = False
        if not fits:
            raise ConfigError(f"{where}: {{concept}} must stand in every wording, got {prompt!r}")
    if not prompts:
        raise ConfigError(f"{where} is empty")


def _noise(seed: int, word: str, number: int) -> int:
    return int(np.random.default_rng([seed, number, *word.encode()]).integers(2**31))
