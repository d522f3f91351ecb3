"""What an edit did: to what it was meant for, and to everything else, before and after."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nam.checks import whole
from nam.data.edits import Asked, PromptKind, ScenePairs
from nam.errors import ConfigError
from nam.types import Generation
from nam.world.language import parse
from nam.world.scene import NOUNS

if TYPE_CHECKING:
    from nam.evaluate.judge import Judge, Verdict
    from nam.mllm.base import MLLM, Draw


@dataclass(frozen=True, kw_only=True)
class EditPrompts:
    """How many held-out prompts an edit is judged by.

    Attributes:
        draw: Requests to draw the source, in unseen combinations and wordings.
        seeds: Pictures of each.
        riddles: Riddles about the source to be answered in words, and as many to be drawn.
        captions: Rendered pictures of the source to be described.
        others: Requests to draw each other thing, and riddles and pictures of it.
        batch: Prompts answered together.
    """

    draw: int = 12
    seeds: int = 2
    riddles: int = 6
    captions: int = 6
    others: int = 2
    batch: int = 32

    def __post_init__(self) -> None:
        for key in ("draw", "seeds", "batch", "riddles", "captions", "others"):
            least = 1 if key in ("draw", "seeds", "batch") else 0
            whole(f"evaluate.{key}", getattr(self, key), least=least, error=ConfigError)

    def asked(self, prompts: ScenePairs, source: str) -> list[Asked]:
        """Every prompt: the source's first."""
        found = prompts.held_out(source, "draw", self.draw, seeds=self.seeds)
        found += prompts.held_out(source, "caption", self.captions)
        found += prompts.held_out(source, "riddle", self.riddles)
        found += prompts.held_out(source, "draw_riddle", self.riddles)
        for noun in NOUNS:
            if noun != source:
                found += prompts.held_out(noun, "draw", self.others)
                found += prompts.held_out(noun, "caption", 1)
                found += prompts.held_out(noun, "riddle", 1)
        return found


@dataclass(frozen=True, eq=False)
class Seen:
    """One prompt's answer.

    Attributes:
        asked: The prompt.
        generation: The answer.
        verdict: What the judge sees in the picture, None without one.
    """

    asked: Asked
    generation: Generation
    verdict: Verdict | None

    @property
    def said(self) -> frozenset[str]:
        """The things that the answer names."""
        return frozenset(noun for noun, _ in parse(self.generation.text).things)

    @property
    def drawn(self) -> frozenset[str]:
        """The things that the picture shows."""
        return frozenset() if self.verdict is None else frozenset(self.verdict.things)


def ask(
    mllm: MLLM, asked: Sequence[Asked], judge: Judge, *, batch: int = 32, words: bool = False
) -> list[Seen]:
    """Answers to all prompts; pictures are drawn where one is asked for. A model whose pictures are made of
    tokens, which draws or speaks, answers in `words` alone if that is asked for."""
    drawing: Draw = not words if mllm.draws_tokens else "auto"
    found: dict[int, Seen] = {}
    for draws in (True, False):
        places = [i for i, one in enumerate(asked) if one.draws is draws]
        for start in range(0, len(places), batch):
            part = places[start : start + batch]
            answers = mllm.generate_batch([asked[i].sample for i in part], draw=drawing if draws else False)
            images = [answer.image for answer in answers if answer.image is not None]
            verdicts = iter(judge(images) if images else [])
            for i, answer in zip(part, answers, strict=True):
                found[i] = Seen(asked[i], answer, None if answer.image is None else next(verdicts))
    return [found[i] for i in range(len(asked))]


def measure(
    before: Sequence[Seen], after: Sequence[Seen], *, source: str, target: str
) -> dict[str, float | None]:
    """Means over prompts of what `observe` sees; None where there is none to judge by."""
    found = observe(before, after, source=source, target=target)
    return {name: float(np.mean(values)) if values else None for name, values in found.items()}


def observe(
    before: Sequence[Seen], after: Sequence[Seen], *, source: str, target: str
) -> dict[str, list[float]]:
    """One value a prompt: 1 or 0, but for `others_pixels`.

    Efficacy: `drawn`, `said` (the target and not the source), `source_drawn`, `source_said`. Generality:
    `caption_said`. Portability: `colour_kept`, `place_kept` (of the target's pictures); of riddles about the
    source, whether the target is the answer, `riddle_said`, `riddle_drawn`, or the source still is,
    `riddle_source_said`, `riddle_source_drawn`. What was there before: names that end in `_before`. The leak
    into the other modality, or none: of the source, `words_kept`, `caption_kept`, `riddle_kept` (same
    words), `picture_kept` (same things drawn). Locality, over every other thing: `others_drawn` (same
    things), `others_scene` (same things, colours and place), `others_text` (same words), `others_caption`,
    `others_riddle`, and `others_pixels` (mean |change|, 0 to 1).
    """
    pairs = list(zip(before, after, strict=True))
    mine = [(b, a) for b, a in pairs if b.asked.noun == source]
    rest = [(b, a) for b, a in pairs if b.asked.noun != source]
    return {**_of_source(mine, source, target), **_of_others(rest)}


def _of_source(pairs: Sequence[tuple[Seen, Seen]], source: str, target: str) -> dict[str, list[float]]:
    draws, captions = _kind(pairs, "draw"), _kind(pairs, "caption")
    riddles, drawn = _kind(pairs, "riddle"), _kind(pairs, "draw_riddle")
    turned = [(b, a) for b, a in draws if target in a.drawn and source not in a.drawn]
    return {
        "drawn": _flags(target in a.drawn and source not in a.drawn for _, a in draws),
        "drawn_before": _flags(source in b.drawn for b, _ in draws),
        "source_drawn": _flags(source in a.drawn for _, a in draws),
        "said": _flags(target in a.said and source not in a.said for _, a in draws),
        "source_said": _flags(source in a.said for _, a in draws),
        "said_before": _flags(source in b.said for b, _ in draws),
        "caption_said": _flags(target in a.said and source not in a.said for _, a in captions),
        "caption_before": _flags(source in b.said for b, _ in captions),
        "colour_kept": _flags(_thing(a, target) == b.asked.colour for b, a in turned),
        "colour_before": _flags(_thing(b, source) == b.asked.colour for b, _ in draws),
        "place_before": _flags(b.verdict is not None and b.verdict.place == b.asked.place for b, _ in draws),
        "place_kept": _flags(a.verdict is not None and a.verdict.place == b.asked.place for b, a in turned),
        "riddle_said": _flags(target in a.said for _, a in riddles),
        "riddle_source_said": _flags(source in a.said for _, a in riddles),
        "riddle_before": _flags(source in b.said for b, _ in riddles),
        "riddle_drawn": _flags(target in a.drawn for _, a in drawn),
        "riddle_source_drawn": _flags(source in a.drawn for _, a in drawn),
        "riddle_drawn_before": _flags(source in b.drawn for b, _ in drawn),
        "words_kept": _same_words(draws),
        "caption_kept": _same_words(captions),
        "riddle_kept": _same_words(riddles),
        "picture_kept": _flags(b.drawn == a.drawn for b, a in draws),
    }


def _of_others(pairs: Sequence[tuple[Seen, Seen]]) -> dict[str, list[float]]:
    draws = _kind(pairs, "draw")
    return {
        "others_drawn": _flags(b.drawn == a.drawn for b, a in draws),
        "others_scene": _flags(_scene(b) == _scene(a) for b, a in draws),
        "others_text": _same_words(draws),
        "others_caption": _same_words(_kind(pairs, "caption")),
        "others_riddle": _flags(b.said == a.said for b, a in _kind(pairs, "riddle")),
        "others_pixels": [pixel_change(b, a) for b, a in draws],
    }


def matrix(seen: Sequence[Seen]) -> dict[str, dict[str, float]]:
    """Which things were drawn where each was asked for: asked -> drawn -> share; "nothing" where none was."""
    table: dict[str, dict[str, float]] = {}
    for noun in NOUNS:
        drawn = [
            one.drawn or frozenset({"nothing"})
            for one in seen
            if one.asked.noun == noun and one.asked.kind == "draw"
        ]
        counts = {
            thing: sum(thing in found for found in drawn) / len(drawn)
            for thing in (*NOUNS, "nothing")
            if drawn
        }
        table[noun] = {thing: value for thing, value in counts.items() if value}
    return table


def _kind(pairs: Sequence[tuple[Seen, Seen]], kind: PromptKind) -> list[tuple[Seen, Seen]]:
    return [(before, after) for before, after in pairs if before.asked.kind == kind]


def _flags(found: Iterable[bool]) -> list[float]:
    return [float(value) for value in found]


def _same_words(pairs: Sequence[tuple[Seen, Seen]]) -> list[float]:
    return _flags(before.generation.text == after.generation.text for before, after in pairs)


def _thing(seen: Seen, noun: str) -> str | None:
    found: Mapping[str, tuple[str, float]] = {} if seen.verdict is None else seen.verdict.things
    return found[noun][0] if noun in found else None


def _scene(seen: Seen) -> object:
    if seen.verdict is None:
        return None
    return {noun: colour for noun, (colour, _) in seen.verdict.things.items()}, seen.verdict.place


def pixel_change(before: Seen, after: Seen) -> float:
    """Mean |change| of two pictures, 0 to 1; 1 where only one of them was drawn."""
    if before.generation.image is None or after.generation.image is None:
        return 0.0 if before.generation.image is after.generation.image else 1.0
    one, other = (np.asarray(x.generation.image, dtype=float) / 255 for x in (before, after))
    return float(np.abs(one - other).mean())
