"""What the language model copies, what it knows, and where that knowledge sits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.quality.bench import ASPECTS, Bench, match, rng_for, scenes_of, shares
from benchmarks.quality.rows import Measure, Section, Spec
from nam.mllm.base import MLLM
from nam.types import Generation
from nam.world.dialogues import draw_request
from nam.world.facts import FACTS
from nam.world.knowledge import Riddle, riddles, scene_riddle
from nam.world.language import facts_of, parse
from nam.world.phrasings import HELD_SCENE_RIDDLES
from nam.world.words import pick

#: A copy may lose at most this many points in the control, on training phrasings and on held-out ones.
MAX_COPY_LOSS = 10.0


@dataclass(frozen=True)
class Question:
    """A prompt and how its answer is marked: by the exact `answer`, or by the `noun` it names."""

    prompt: str
    answer: str = ""
    noun: str = ""

    def right(self, generation: Generation) -> bool:
        """Whether the model answered it."""
        if self.noun:
            return [noun for noun, _ in parse(generation.text).things] == [self.noun]
        return generation.text == self.answer and generation.finish == "img"


def copies(
    seed: int, count: int, *, things: int, split: str = "test", held_out: bool = False
) -> list[Question]:
    """Requests to draw a scene: the answer repeats what was asked for."""
    rng = rng_for(f"copies {things} {split} {held_out}", seed)
    scenes = scenes_of(rng, count, things=things, split=split)
    said = [draw_request(facts_of(scene), rng, held_out=held_out) for scene in scenes]
    return [Question(request.prompt, answer=request.answer) for request in said]


def text_riddles(*, held_out: bool) -> list[Question]:
    """Every riddle that is answered in text."""
    return [Question(r.prompt, noun=r.answer_noun) for r in riddles(held_out=held_out) if not r.draw]


def marks(bench: Bench, questions: Sequence[Question], *, what: str) -> list[bool]:
    """Which questions the model answers."""
    answers = bench.ask([q.prompt for q in questions], what=what)
    return [question.right(answer) for question, answer in zip(questions, answers, strict=True)]


def copy(bench: Bench) -> dict[str, Measure]:
    """ "draw X" -> "here is X :", word by word."""
    found = {}
    for things in (1, 2):
        for held_out in (False, True):
            right = [
                marks(bench, copies(seed, 2 * bench.count, things=things, held_out=held_out), what="copies")
                for seed in bench.seeds
            ]
            found[f"{things}.{held_out}"] = Measure.share(right)
    return found


def answer_riddles(bench: Bench) -> dict[str, Measure]:
    """Every riddle in text. Decoding is greedy, so seeds would change nothing."""
    return {
        str(held): Measure.share([marks(bench, text_riddles(held_out=held), what="riddles")])
        for held in (False, True)
    }


def draw_riddles(bench: Bench) -> dict[str, Measure]:
    """Riddles in held-out phrasings, answered by drawing."""
    plain, coloured = [], []
    pool = [riddle for riddle in riddles(held_out=True) if riddle.draw]
    unique = [fact for fact in FACTS if fact.unique]
    for seed in bench.seeds:
        rng = rng_for("drawn riddles", seed)
        chosen = [pool[i] for i in rng.permutation(len(pool))[: bench.count]]
        plain.append(_drawn(bench, chosen, seed))
        scenes = [
            scene_riddle(pick(rng, unique), pick(rng, HELD_SCENE_RIDDLES), rng)
            for _ in range(max(1, bench.count // 2))
        ]
        coloured.append(_drawn(bench, scenes, seed))
    return shares("plain", plain, ("nouns",)) | shares("scene", coloured, ("nouns", "everything"))


def _drawn(bench: Bench, asked: Sequence[Riddle], seed: int) -> list[Any]:
    answers = bench.ask([r.prompt for r in asked], seed=seed, draw="auto", what="drawn riddles")
    seen = bench.see([answer.image for answer in answers])
    return [match(parse(r.answer), found) for r, found in zip(asked, seen, strict=True)]


@contextmanager
def silent_ffns(mllm: MLLM, layers: Sequence[int]) -> Iterator[None]:
    """Zero what the FFNs of these layers write, at every position, until the block ends."""

    def silence(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return torch.zeros_like(output)

    handles = []
    try:
        for layer in layers:
            handles.append(mllm.ffn_sites[layer].linear.register_forward_hook(silence))
        yield
    finally:
        for handle in handles:
            handle.remove()


def blocks(layers: int) -> list[range]:
    """Every run of consecutive layers."""
    return [range(start, stop) for start in range(layers) for stop in range(start + 1, layers + 1)]


def choose_block(bench: Bench, layers: Sequence[range]) -> range:
    """The block whose FFNs training-phrasing riddles need most while training copies stay.

    If no block leaves the copies alone, the one with the largest difference of the two losses.
    """
    known = text_riddles(held_out=False)
    rng = rng_for("block", 0)
    known = [known[i] for i in rng.permutation(len(known))[: 3 * bench.count]]
    plain = copies(0, 2 * bench.count, things=1, split="train")
    base = _percent(bench, known), _percent(bench, plain)
    losses = []
    for block in layers:
        with silent_ffns(bench.mllm, block):
            losses.append((base[0] - _percent(bench, known), base[1] - _percent(bench, plain)))
    allowed = [i for i, (_, copy_loss) in enumerate(losses) if copy_loss <= MAX_COPY_LOSS]
    if allowed:
        return layers[max(allowed, key=lambda i: losses[i][0])]
    return layers[max(range(len(losses)), key=lambda i: losses[i][0] - losses[i][1])]


def _percent(bench: Bench, questions: Sequence[Question]) -> float:
    right = marks(bench, questions, what="choosing the block")
    return 100 * sum(right) / len(right)


def silence_block(bench: Bench) -> dict[str, Measure]:
    """What the chosen block's FFNs are worth to held-out riddles and to plain copies of unseen scenes."""
    block = choose_block(bench, blocks(len(bench.mllm.ffn_sites)))
    note = f"layers {block[0]} to {block[-1]} of 0 to {len(bench.mllm.ffn_sites) - 1}"
    asked = {
        "riddles": [text_riddles(held_out=True)],
        "copies": [copies(seed, 2 * bench.count, things=1) for seed in bench.seeds],
    }
    found: dict[str, Measure] = {}
    for name, questions in asked.items():
        before = [marks(bench, part, what=f"{name}, whole") for part in questions]
        with silent_ffns(bench.mllm, block):
            after = [marks(bench, part, what=f"{name}, silenced") for part in questions]
        loss = [
            [100.0 * (b - a) for b, a in zip(one, other, strict=True)]
            for one, other in zip(before, after, strict=True)
        ]
        found[f"{name}.before"], found[f"{name}.after"] = Measure.share(before), Measure.share(after)
        found[f"{name}.loss"] = Measure.mean(loss, note=note)
    return found


SECTIONS = (
    Section(
        "copies",
        "Requests copied word by word (unseen combinations)",
        tuple(
            Spec(f"{n}.{held}", f"{words}, {'held-out' if held else 'training'} phrasings")
            for n, words in ((1, "one thing"), (2, "two things"))
            for held in (False, True)
        ),
        copy,
    ),
    Section(
        "riddles",
        "Riddles answered in text",
        (Spec("False", "training phrasings"), Spec("True", "held-out phrasings", 95)),
        answer_riddles,
    ),
    Section(
        "drawn_riddles",
        "Riddles drawn through the whole chain (held-out phrasings)",
        (
            Spec("plain.nouns", "noun", 90),
            *(Spec(f"scene.{a}", f"in a colour, at a place: {ASPECTS[a]}") for a in ("nouns", "everything")),
        ),
        draw_riddles,
    ),
    Section(
        "ffn",
        "Control: a block of layers whose FFN outputs are zeroed",
        (
            Spec("riddles.before", "held-out riddles, whole model"),
            Spec("riddles.after", "held-out riddles, block zeroed"),
            Spec("riddles.loss", "held-out riddles lost", 40, unit="points"),
            Spec("copies.before", "plain copies, whole model"),
            Spec("copies.after", "plain copies, block zeroed"),
            Spec("copies.loss", "plain copies lost", MAX_COPY_LOSS, unit="points", at_least=False),
        ),
        silence_block,
    ),
)
