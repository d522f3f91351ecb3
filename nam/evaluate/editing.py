"""What an edit did: to what it was meant for, and to everything else, before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from nam.data.edits import Asked, ScenePairs
from nam.editor.cases import streams_of
from nam.editor.reach import logits_of
from nam.types import Generation
from nam.world.language import parse
from nam.world.scene import NOUNS

if TYPE_CHECKING:
    from nam.evaluate.judge import Judge, Verdict
    from nam.mllm.base import MLLM


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


def ask(mllm: MLLM, asked: Sequence[Asked], judge: Judge, *, batch: int = 32) -> list[Seen]:
    """Answers to all prompts; pictures are drawn where one is asked for."""
    found: dict[int, Seen] = {}
    for draws in (True, False):
        places = [i for i, one in enumerate(asked) if one.draws is draws]
        for start in range(0, len(places), batch):
            part = places[start : start + batch]
            answers = mllm.generate_batch([asked[i].sample for i in part], draw="auto" if draws else False)
            images = [answer.image for answer in answers if answer.image is not None]
            verdicts = iter(judge(images) if images else [])
            for i, answer in zip(part, answers, strict=True):
                found[i] = Seen(asked[i], answer, None if answer.image is None else next(verdicts))
    return [found[i] for i in range(len(asked))]


def measure(
    before: Sequence[Seen], after: Sequence[Seen], *, source: str, target: str
) -> dict[str, float | None]:
    """Shares (0 to 1) of prompts; None where there is none to judge by.

    Efficacy: `drawn`, `said` (the target and not the source). Generality: `caption_said`. Portability:
    `colour_kept`, `place_kept` (of the target's pictures), `riddle_said`, `riddle_drawn`. What was there
    before: names that end in `_before`. Of the source: `words_kept`, `picture_kept`. Locality, over every
    other thing: `others_drawn` (same things), `others_scene` (same things, colours and place), `others_text`
    (same words), `others_caption`, `others_riddle`, and `others_pixels` (mean |change|, 0 to 1).
    """
    rows = list(zip(before, after, strict=True))
    mine = [(b, a) for b, a in rows if b.asked.noun == source]
    rest = [(b, a) for b, a in rows if b.asked.noun != source]
    draws = [(b, a) for b, a in mine if b.asked.kind == "draw"]
    turned = [(b, a) for b, a in draws if target in a.drawn and source not in a.drawn]
    elsewhere = [(b, a) for b, a in rest if b.asked.kind == "draw"]

    def of(kind: str) -> list[tuple[Seen, Seen]]:
        return [(b, a) for b, a in mine if b.asked.kind == kind]

    return {
        "drawn": share(target in a.drawn and source not in a.drawn for _, a in draws),
        "drawn_before": share(source in b.drawn for b, _ in draws),
        "said": share(target in a.said and source not in a.said for _, a in draws),
        "said_before": share(source in b.said for b, _ in draws),
        "caption_said": share(target in a.said and source not in a.said for _, a in of("caption")),
        "colour_kept": share(_thing(a, target) == b.asked.colour for b, a in turned),
        "colour_before": share(_thing(b, source) == b.asked.colour for b, _ in draws),
        "place_kept": share(a.verdict is not None and a.verdict.place == b.asked.place for b, a in turned),
        "riddle_said": share(target in a.said for _, a in of("riddle")),
        "riddle_drawn": share(target in a.drawn for _, a in of("draw_riddle")),
        "words_kept": share(b.generation.text == a.generation.text for b, a in draws),
        "picture_kept": share(b.drawn == a.drawn for b, a in draws),
        "others_drawn": share(b.drawn == a.drawn for b, a in elsewhere),
        "others_scene": share(_scene(b) == _scene(a) for b, a in elsewhere),
        "others_text": share(b.generation.text == a.generation.text for b, a in elsewhere),
        "others_caption": share(
            b.generation.text == a.generation.text for b, a in rest if b.asked.kind == "caption"
        ),
        "others_riddle": share(b.said == a.said for b, a in rest if b.asked.kind == "riddle"),
        "others_pixels": _mean([_pixels(b, a) for b, a in elsewhere]),
    }


def drift(mllm: MLLM, seen: Sequence[Seen], before: Sequence[Tensor], *, source: str) -> dict[str, Any]:
    """How the model, as it is now, reads the answers that it gave before: the same words, so that what
    moves is the neurons' doing and not that of other words in front.

    Args:
        mllm: The edited model.
        seen: The answers before.
        before: What entered the final norm then, as `streams_of` gives it.
        source: The thing that was edited.

    Returns:
        For `source` and `others`: `kl` of the words (nats), `top1` agreement, and `img`, the change of the
        states that draw over their size.
    """
    after = streams_of(mllm, [one.generation for one in seen])
    found: dict[str, dict[str, list[float]]] = {
        g: {"kl": [], "top1": [], "img": []} for g in ("source", "others")
    }
    for one, old, new in zip(seen, before, after, strict=True):
        group = found["source" if one.asked.noun == source else "others"]
        words = len(one.generation.answer_ids) + 1
        p, q = (logits_of(mllm, x[:words].to(mllm.device)).log_softmax(-1) for x in (old, new))
        group["kl"].append(float((p.exp() * (p - q)).sum(-1).mean()))
        group["top1"].append(float((p.argmax(-1) == q.argmax(-1)).float().mean()))
        if len(one.generation.spans.img):
            group["img"].append(float((new[words:] - old[words:]).norm() / old[words:].norm()))
    return {
        f"{group}_{name}": _mean(values) for group, names in found.items() for name, values in names.items()
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


def share(found: Any) -> float | None:
    """Share of the true ones; None of an empty sequence."""
    return _mean([float(value) for value in found])


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _thing(seen: Seen, noun: str) -> str | None:
    found: Mapping[str, tuple[str, float]] = {} if seen.verdict is None else seen.verdict.things
    return found[noun][0] if noun in found else None


def _scene(seen: Seen) -> object:
    if seen.verdict is None:
        return None
    return {noun: colour for noun, (colour, _) in seen.verdict.things.items()}, seen.verdict.place


def _pixels(before: Seen, after: Seen) -> float:
    if before.generation.image is None or after.generation.image is None:
        return 0.0 if before.generation.image is after.generation.image else 1.0
    one, other = (np.asarray(x.generation.image, dtype=float) / 255 for x in (before, after))
    return float(np.abs(one - other).mean())
