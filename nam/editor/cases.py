"""From prompts to cases: what the residual stream should be, and where.

The picture follows from the states at the [IMG] positions, and those read the answer's words as well as the
prompt. So what an edit of the words does to the picture is part of the edit, and each modality has its own
sequence to be read:

* image: the source's own answer stays; its [IMG] positions should have the states of the target's prompt.
* text: the target's word stands in the answer already; the source's picture should come out all the same.
* both: the target's word stands in the answer already; the [IMG] positions should have the target's states.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nam.editor.base import NO_TOKEN, Case, Goal, Role
from nam.editor.delta import EditError
from nam.editor.reach import REPLAYED, logits_of, together
from nam.errors import ConfigError, TargetError
from nam.hooks import Recorder
from nam.mllm.norm import HeldNorm, read_final_norm
from nam.targets import text_target
from nam.types import Generation, Sample, Spans

if TYPE_CHECKING:
    from nam.mllm.base import MLLM


@dataclass(frozen=True, eq=False)
class Pair:
    """The same request twice: for the source, and for the target."""

    source: Sample
    target: Sample


@dataclass(frozen=True, eq=False)
class Cases:
    """What an editor works on.

    Attributes:
        cases: What is wanted where.
        used: Pairs that could be used.
        skipped: Why others could not, and how many. What is said of a picture of the source is none of
            these where only pictures change: it stays.
    """

    cases: tuple[Case, ...]
    used: int
    skipped: dict[str, int]


def build_cases(
    mllm: MLLM,
    goal: Goal,
    pairs: Sequence[Pair],
    others: Sequence[Sample],
    *,
    margin: float = 2.0,
    max_new_tokens: int = 40,
) -> Cases:
    """Ask every prompt of the model as it is, and say what should come out instead.

    Args:
        mllm: The model, unedited.
        goal: What is to become what.
        pairs: Requests for the source, and the same for the target.
        others: What must stay as it is.
        margin: By how much a word that is to be said should lead, in logits.
        max_new_tokens: Most words of an answer.

    Raises:
        EditError: no pair can be used: the model does not say or draw the source, or the target.
        ConfigError: the margin is not a number of at least 0.
    """
    if not 0 <= margin < math.inf:
        raise ConfigError(f"edit.margin must be at least 0, and finite, got {margin}")
    sources = answer(mllm, [pair.source for pair in pairs], max_new_tokens=max_new_tokens)
    targets = answer(mllm, [pair.target for pair in pairs], max_new_tokens=max_new_tokens)
    skipped: dict[str, int] = {}
    good: list[tuple[Generation, Generation]] = []
    untouched: list[Generation] = []
    for pair, source, target in zip(pairs, sources, targets, strict=True):
        problem = _unusable(mllm, goal, source, target)
        stays = goal.modality == "image" and not len(source.spans.img)
        if stays:
            untouched.append(source)  # such as what it says of a picture: words that are to stay
        if not problem:
            good.append((source, target))
        elif not stays or pair.source.image is None:
            skipped[problem] = skipped.get(problem, 0) + 1
    if not good:
        none = "no request to draw is given" if goal.modality == "image" else "no prompt is given"
        reasons = "; ".join(f"{count} x {reason}" for reason, count in skipped.items()) or none
        raise EditError(f"{goal.source.name} cannot be edited into {goal.target.name}: {reasons}")
    read = good if goal.modality == "image" else [(spliced(one, other), other) for one, other in good]
    kept = [*untouched, *answer(mllm, others, max_new_tokens=max_new_tokens)]
    sequences = [*(generation for generation, _ in read), *kept]
    # Whose states the pictures should have: the target's, or the source's own where only words change.
    models = [source if goal.modality == "text" else target for source, target in good]
    streams, pictures = streams_of(mllm, sequences), streams_of(mllm, models)
    norm = read_final_norm(mllm)
    cases = []
    for row, (generation, stream) in enumerate(zip(sequences, streams, strict=True)):
        case = kept_case(mllm, generation, stream)
        if row < len(good):
            case = case if goal.modality == "image" else say(mllm, norm, case, margin=margin)
            role: Role = "keep" if goal.modality == "text" else "image"
            case = draw(case, pictures[row], role=role)
        cases.append(case)
    return Cases(tuple(cases), len(good), skipped)


def answer(mllm: MLLM, samples: Sequence[Sample], *, max_new_tokens: int = 40) -> list[Generation]:
    """Answers without pictures, but with the states that would draw them."""
    found: list[Generation] = []
    for start in range(0, len(samples), REPLAYED):
        part = samples[start : start + REPLAYED]
        found += mllm.generate_batch(part, max_new_tokens=max_new_tokens, draw=False)
    return found


def spliced(source: Generation, target: Generation) -> Generation:
    """The source's prompt with the target's answer behind it, and its own [IMG] tokens behind that."""
    start, spans = source.spans.answer.start, source.spans
    ids = (*source.token_ids[:start], *target.answer_ids, *source.token_ids[spans.img.start :])
    lengths = {name: len(getattr(spans, name)) for name in ("system", "picture", "text", "img")}
    new = Spans.of_lengths(**lengths, answer=len(target.answer_ids))
    return replace(source, token_ids=ids, spans=new, text=target.text)


def streams_of(mllm: MLLM, generations: Sequence[Generation]) -> list[Tensor]:
    """What enters the final norm at the answer's positions, (P, H) float32 on the CPU, one each."""
    if mllm.final_norm is None:
        raise EditError(f"{mllm.name} has no final norm, whose input an edit aims at")
    found: list[Tensor] = []
    where = [answer_positions(generation) for generation in generations]
    for rows in together(where):
        recorder = Recorder(mllm, where=where[rows], layers=())
        with torch.no_grad():
            mllm.replay(generations[rows], record=recorder)
        streams = [recorded.stream for recorded in recorder.recorded]
        found += [stream.float().cpu() for stream in streams if stream is not None]
    return found


def answer_positions(generation: Generation) -> tuple[int, ...]:
    """The prompt's last token, whose forward pass begins the answer, and all behind it."""
    return tuple(range(generation.spans.answer.start - 1, len(generation.token_ids)))


def kept_case(mllm: MLLM, generation: Generation, stream: Tensor) -> Case:
    """Everything of an answer stays: its words, and the states that draw."""
    positions = answer_positions(generation)
    words = len(generation.answer_ids)
    # Behind the last word a picture is announced, or the answer ends: whatever the model says there stays.
    last = int(logits_of(mllm, stream[words : words + 1].to(mllm.device)).argmax())
    tokens = (*generation.answer_ids, last, *[NO_TOKEN] * len(generation.spans.img))
    roles: tuple[Role, ...] = tuple("keep" for _ in positions)
    return Case(generation=generation, positions=positions, wanted=stream, roles=roles, tokens=tokens)


def say(mllm: MLLM, norm: HeldNorm, case: Case, *, margin: float) -> Case:
    """The same case, but its own words are to be said: wherever the model would say another one, the two
    words' logits change places, by the smallest change of the residual stream that does it."""
    rows = [row for row, token in enumerate(case.tokens) if token != NO_TOKEN]
    stream = case.wanted[rows].to(mllm.device)
    logits = logits_of(mllm, stream)
    said = logits.argmax(-1).tolist()
    wanted, roles = case.wanted.clone(), list(case.roles)
    for row, old in zip(rows, said, strict=True):
        new = case.tokens[row]
        if new == old:
            continue
        gap = float(logits[row, old] - logits[row, new])
        wanted[row] += swap(mllm, norm, stream[row], old, new, gap=gap, margin=margin).to(wanted)
        roles[row] = "text"
    return replace(case, wanted=wanted, roles=tuple(roles))


def swap(
    mllm: MLLM, norm: HeldNorm, stream: Tensor, old: int, new: int, *, gap: float, margin: float
) -> Tensor:
    """The least change (H,) of what enters the final norm that raises one token's logit by gap + margin and
    lowers another's by gap, at the norm's scale as it is."""
    pair = mllm.unembedding.detach()[[new, old]].to(norm.gain)
    directions = norm.pull(pair, stream.to(norm.gain))
    wanted = torch.tensor([gap + margin, -gap], dtype=directions.dtype, device=directions.device)
    return directions.T @ torch.linalg.solve(directions @ directions.T, wanted)


def draw(case: Case, stream: Tensor, *, role: Role) -> Case:
    """The same case, but its [IMG] positions should have the last rows of another answer's stream."""
    count = len(case.generation.spans.img)
    if not count:
        return case
    wanted = torch.cat([case.wanted[:-count], stream[-count:]])
    return replace(case, wanted=wanted, roles=(*case.roles[:-count], *[role] * count))


def _unusable(mllm: MLLM, goal: Goal, source: Generation, target: Generation) -> str:
    """Why a pair cannot be used; "" when it can."""
    if goal.modality != "image":
        for generation, concept in ((source, goal.source), (target, goal.target)):
            try:
                text_target(mllm, generation, concept)
            except TargetError:
                return f"the model does not say {concept.name!r} when it is asked to"
    if goal.modality != "text":
        for generation, concept in ((source, goal.source), (target, goal.target)):
            if not len(generation.spans.img) and goal.modality == "image":
                return f"the model draws nothing when it is asked for {concept.name!r}"
    if bool(len(source.spans.img)) != bool(len(target.spans.img)):
        return "the model draws for one of the two words only"
    return ""
