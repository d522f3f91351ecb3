"""Every output token attributed, recorded while generating, over generating alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from benchmarks.cost.pairs import Clock, paired
from benchmarks.cost.shape import Case, Shape
from benchmarks.quality.rows import Row, Spec
from nam.hooks import Recorder
from nam.mllm.base import MLLM
from nam.options import option
from nam.reduction.base import Method, contexts_of
from nam.reduction.vocabulary import first_tokens
from nam.targets import token_targets
from nam.types import Generation, Sample

SECTION = "Generate and attribute every output token, over generate alone"

#: Methods that are measured, tokens of an answer, samples a batch, and the largest ratio that is wanted.
METHODS = ("nam", "acu")
TOKENS = 32
BATCHES = (1, 16)
TARGET = 1.05


def measure_answers(
    shape: Shape, *, device: str, pairs: int, clock: Clock, tokens: int = TOKENS
) -> list[Row]:
    """A row for each method and size of a batch.

    The unembedding is another than the embedding here: a random model with a tied one says the same word
    again and again, and equal targets might be cheaper than different ones.
    """
    case = Case(replace(shape, tied=False), device=device)
    first_tokens(case.mllm, norm="ignore", end="top")
    rows = []
    for name in METHODS:
        method: Method = option("reduction", name)
        for count in BATCHES:
            asked = samples(case, count)

            def plain(asked: Sequence[Sample] = asked) -> object:
                return answer(case.mllm, asked, tokens=tokens)

            def attributed(asked: Sequence[Sample] = asked, method: Method = method) -> object:
                return attribute(case.mllm, asked, method, tokens=tokens)

            ratio = paired(attributed, (plain,), pairs=pairs, clock=clock)[0]
            label = f"{name}, {count} sample{'s' if count > 1 else ''} a batch, {tokens} tokens each"
            rows.append(Row(SECTION, Spec(label, label, TARGET, unit="x", at_least=False), ratio))
    return rows


def samples(case: Case, count: int) -> list[Sample]:
    """Prompts of the shape's length, of random words."""
    words = sorted(word for word in case.mllm.tokenizer.get_vocab() if word.isalpha())
    draw = np.random.default_rng(case.shape.seed)
    # The first token and the end of the sentence are the model's own.
    length = case.shape.prompt - 2
    return [Sample(id=str(row), prompt=" ".join(draw.choice(words, length)), seed=0) for row in range(count)]


def answer(
    mllm: MLLM, asked: Sequence[Sample], *, tokens: int, record: Recorder | None = None
) -> list[Generation]:
    """What the model says."""
    return mllm.generate_batch(asked, max_new_tokens=tokens, draw=False, record=record)


def attribute(mllm: MLLM, asked: Sequence[Sample], method: Method, *, tokens: int) -> list[Tensor]:
    """The scores (L, d) of every neuron for every token that is said."""
    recorder = Recorder(mllm)
    generations = answer(mllm, asked, tokens=tokens, record=recorder)
    each = [
        (generation, target, recorded)
        for generation, recorded in zip(generations, recorder.recorded, strict=True)
        for target in token_targets(mllm, generation)
    ]
    generations, targets, recorded = (list(part) for part in zip(*each, strict=True))
    return list(method.score_batch(contexts_of(mllm, generations, targets, recorded=recorded)))
