"""The stages of attribution, in milliseconds: words and pictures, alone and in batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from benchmarks.cost import answers
from benchmarks.cost.pairs import paired, wall
from benchmarks.fullsize.timing import Table, Timed, timed
from benchmarks.quality.rows import Measure, Row
from nam.hooks import Recorder
from nam.mllm.gill import GILL
from nam.options import option
from nam.reduction.base import contexts_of
from nam.reduction.vocabulary import first_tokens
from nam.relevance.base import RelevanceError, RelevanceMap
from nam.targets import image_target, token_targets
from nam.types import DrawSettings, Generation, Sample, Target

WORDS, PICTURES = "Words", "Pictures"

#: Methods that are timed for one target: without a backward pass, and with one.
METHODS = ("acu", "nam", "gradxact", "nam_total")

#: Methods whose scores of every token are taken while generating, and the largest ratio that is wanted.
RECORDED = {"acu": answers.TARGET, "nam": answers.TARGET}

#: Relevance providers, with what keeps the full gradient within one card.
PROVIDERS: dict[str, dict[str, Any]] = {
    "levels": {},
    "attention": {},
    "last": {"checkpoint": True},
    "gradient": {"checkpoint": True},
}


@dataclass(frozen=True, eq=False)
class Bench:
    """What is measured.

    Attributes:
        mllm: The model.
        words: Known to its tokenizer, for prompts.
        prompt, tokens: Words of a prompt, and tokens of an answer.
        runs: Of which medians are taken.
    """

    mllm: GILL
    words: Sequence[str]
    prompt: int
    tokens: int
    runs: int

    def samples(self, count: int) -> list[Sample]:
        """Prompts of random words."""
        draw = np.random.default_rng(0)
        texts = [" ".join(draw.choice(self.words, self.prompt)) for _ in range(count)]
        return [Sample(id=str(row), prompt=text, seed=row) for row, text in enumerate(texts)]


def measure_words(bench: Bench, *, batch: int) -> list[Row]:
    """Generating, recording, replaying and scoring words, so many samples at once."""
    mllm, asked, table = bench.mllm, bench.samples(batch), Table(f"{WORDS}, {_samples(batch)}")
    said: list[Generation] = []

    def generate() -> None:
        said[:] = answers.answer(mllm, asked, tokens=bench.tokens)

    with table.attempt("generate"):
        plain = timed(generate, runs=bench.runs)
        tokens = sum(len(one.answer_ids) for one in said)
        table.add("generate", plain.measure(note=f"{tokens} tokens"))
        table.add("generate: tokens", Measure(tokens / median(plain.seconds)), unit="tokens/s")
    for name, target in RECORDED.items():
        label = f"generate and attribute every token by {name}, over generate alone"
        with table.attempt(label, unit="x"):
            attribute = partial(
                answers.attribute, mllm, asked, option("reduction", name), tokens=bench.tokens
            )
            ratio = paired(attribute, (generate,), pairs=bench.runs)[0]
            table.add(label, ratio, unit="x", target=target)
    said = [one for one in said if one.answer_ids]
    if not said:
        return table.rows
    with table.attempt("forward pass over the answers, all logits"):
        run = partial(_forward, mllm, said)
        table.add("forward pass over the answers, all logits", timed(run, runs=bench.runs).measure())
    with table.attempt("replay, recorded"):
        table.add("replay, recorded", timed(partial(_replay, mllm, said), runs=bench.runs).measure())
    last = [token_targets(mllm, one)[-1] for one in said]
    _add_methods(table, bench, said, last, what="the last token")
    return table.rows


def measure_pictures(bench: Bench, *, batch: int) -> list[Row]:
    """Seeing, drawing, relevance and scoring of pictures, so many samples at once; times of each picture."""
    mllm, asked, table = bench.mllm, bench.samples(batch), Table(f"{PICTURES}, {_samples(batch)}")
    drawn: list[Generation] = []

    def draw() -> None:
        drawn[:] = mllm.generate_batch(asked, max_new_tokens=bench.tokens, draw=True)

    with table.attempt("generate, drawing included"):
        spent = timed(draw, runs=bench.runs)
        note = f"{bench.tokens} tokens and {mllm.config.steps} steps"
        table.add("generate, drawing included", spent.measure(per=batch, note=note))
    if not drawn:
        return table.rows
    size = mllm.config.image_size
    with table.attempt("see: pixels to soft tokens"):
        pixels = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
        see = torch.inference_mode()(partial(mllm.visual_tokens, pixels.to(mllm.device)))
        table.add("see: pixels to soft tokens", timed(see, runs=bench.runs).measure(per=batch))
    sampled: Timed | None = None
    with table.attempt("draw, from the last hidden states to pixels"):
        sampled = timed(partial(_draw, mllm, drawn), runs=bench.runs)
        table.add("draw, from the last hidden states to pixels", sampled.measure(per=batch))
    masks = [_region(one) for one in drawn]
    maps: list[RelevanceMap] = []
    for name, options in PROVIDERS.items():
        label = f"relevance={name}" + "".join(f" ({key}={value})" for key, value in options.items())
        with table.attempt(label):
            provider = option("relevance", name, signed=True, **options)

            def find(provider: Any = provider) -> None:
                maps[:] = [_whole(one) for one in provider.batch(mllm, drawn, masks)]

            spent = timed(find, runs=1 if name in ("last", "gradient") else bench.runs)
            table.add(label, spent.measure(per=batch, note=f"{maps[0].cost:g} U-Net evaluations"))
            if sampled:
                share = 100 * median(spent.seconds) / median(sampled.seconds)
                table.add(f"{label}: of drawing", Measure(share), unit="%")
    with table.attempt("replay, recorded"):
        table.add(
            "replay, recorded", timed(partial(_replay, mllm, drawn), runs=bench.runs).measure(per=batch)
        )
    if maps:
        targets = [image_target(one, found) for one, found in zip(drawn, maps, strict=True)]
        _add_methods(table, bench, drawn, targets, what="the region", per=batch)
    return table.rows


def _add_methods(
    table: Table,
    bench: Bench,
    generations: Sequence[Generation],
    targets: Sequence[Target],
    *,
    what: str,
    per: int = 1,
) -> None:
    """Rows of each method, from finished answers to scores."""
    mllm = bench.mllm
    for name in METHODS:
        with table.attempt(f"replay and {name} of {what}"):
            method = option("reduction", name)

            def score(method: Any = method) -> None:
                contexts = contexts_of(mllm, generations, targets, later=method.needs.backward)
                method.score_batch(contexts)

            table.add(f"replay and {name} of {what}", timed(score, runs=bench.runs).measure(per=per))


def measure_once(mllm: GILL) -> list[Row]:
    """What is computed once for a model: the first word of every neuron."""
    table, label = Table("Once for a model, then kept"), "the argmax of eq. 7 for every neuron"
    with table.attempt(label):
        began = wall()
        neurons = first_tokens(mllm, norm="ignore", end="top").numel()
        table.add(label, Measure(1e3 * (wall() - began), note=f"{neurons} neurons"))
    return table.rows


@torch.inference_mode()
def _forward(mllm: GILL, said: Sequence[Generation]) -> Tensor:
    ids, mask = mllm.codec.pad([one.token_ids for one in said])
    given = {"input_ids": ids.to(mllm.device), "attention_mask": mask.to(mllm.device)}
    logits: Tensor = mllm.language_model(**given, use_cache=False).logits
    return logits


def _replay(mllm: GILL, generations: Sequence[Generation]) -> None:
    with torch.no_grad():
        mllm.replay(generations, record=Recorder(mllm))


@torch.inference_mode()
def _draw(mllm: GILL, drawn: Sequence[Generation]) -> Tensor:
    hidden = torch.stack([cast(Tensor, one.hidden) for one in drawn]).to(mllm.unembedding)
    noise = mllm.diffusion.noise([one.seed for one in drawn], like=hidden)
    return mllm.drawers["image"].render(hidden, noise, cast(DrawSettings, drawn[0].drawn))


def _region(generation: Generation) -> Tensor:
    """The middle of a picture, bool (H, W)."""
    image = cast(Any, generation.image)
    mask = torch.zeros(image.height, image.width, dtype=torch.bool)
    mask[image.height // 4 : -image.height // 4, image.width // 4 : -image.width // 4] = True
    return mask


def _whole(found: RelevanceMap | RelevanceError) -> RelevanceMap:
    if isinstance(found, RelevanceError):
        raise found
    return found


def _samples(count: int) -> str:
    return f"{count} sample{'s' if count > 1 else ''} a batch"
