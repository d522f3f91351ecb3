"""Between the user's samples and the model: samples checked and encoded, answers put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nam.checks import expect, whole
from nam.errors import InputError
from nam.mllm.decode import Decoded
from nam.mllm.pictures import read_picture, to_pixels
from nam.mllm.prompts import EncodedPrompt, PromptCodec
from nam.types import DrawSettings, Finish, Generation, Medium, Sample, Span, Spans

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, eq=False)
class Request:
    """One sample, ready to be read.

    Attributes:
        encoded: The prompt's ids.
        pixels: The picture as the vision tower reads it, (3, S, S); (P, 3, S, S) of several; None without.
        limit: Most words of the answer.
        seed: Of the picture's noise.
    """

    encoded: EncodedPrompt
    pixels: Tensor | None
    limit: int
    seed: int


def read_samples(
    samples: Sequence[Sample], *, codec: PromptCodec, context: int, max_new_tokens: int
) -> list[Request]:
    """Check every sample and encode it.

    Args:
        samples: What is asked.
        codec: The model's conventions.
        context: Most positions that the language model can read.
        max_new_tokens: Most words of an answer; the context may leave room for fewer.

    Raises:
        InputError: a sample that the model cannot take; among several, the message names it.
    """
    max_new_tokens = whole("max_new_tokens", max_new_tokens, least=1)
    requests = []
    for sample in samples:
        try:
            requests.append(_read(sample, codec=codec, context=context, max_new_tokens=max_new_tokens))
        except InputError as error:
            if len(samples) == 1:
                raise
            raise InputError(f"sample {sample.id}: {error}") from error
    return requests


def _read(sample: Sample, *, codec: PromptCodec, context: int, max_new_tokens: int) -> Request:
    config, seed = codec.config, whole("seed", sample.seed, least=0, most=2**63 - 1)
    expect(str, sample.prompt, "expected a prompt in words")
    if sample.image is not None and sample.pictures:
        raise InputError("expected image or pictures, got both")
    images = sample.pictures if sample.image is None else (sample.image,)
    encoded = codec.encode(sample.prompt, pictures=len(images))
    signal = max(map(len, codec.signals.values()))
    room = context - signal - len(encoded.ids)
    if room < 1:
        raise InputError(
            f"the prompt has {len(encoded.ids)} tokens ({encoded.n_picture} of them a picture's); at most "
            f"{context - signal - 1} fit, because the context of {context} must also hold an answer and "
            f"{signal} [IMG] tokens"
        )
    seen = [
        to_pixels(
            read_picture(image),
            size=config.image_size,
            mean=config.image_mean,
            std=config.image_std,
            fit=config.image_fit,
        )
        for image in images
    ]
    pixels = torch.stack(seen) if len(seen) > 1 else next(iter(seen), None)
    return Request(encoded, pixels, min(max_new_tokens, room), seed)


@dataclass(frozen=True, eq=False)
class Drawn:
    """What was drawn of one medium's rows, in their order.

    Attributes:
        settings: How.
        latents: (len(rows), C, ...).
        pictures: A picture of each.
        extras: What a `Generation` holds of each beside its picture, by its attributes.
    """

    settings: DrawSettings
    latents: Tensor
    pictures: Sequence[Image]
    extras: Sequence[Mapping[str, Any]]


def to_generations(
    requests: Sequence[Request],
    decoded: Decoded,
    *,
    codec: PromptCodec,
    drawn: Mapping[Medium, Drawn],
) -> list[Generation]:
    """The answers of a batch; to be called outside inference mode, so that their tensors can take part in
    gradients later.

    Args:
        requests: What was asked.
        decoded: What the language model answered.
        codec: The model's conventions.
        drawn: What was drawn, by medium; nothing of a medium that is not there.
    """
    generations = [
        _said(request, words, finish, codec)
        for request, words, finish in zip(requests, decoded.answers, decoded.finish, strict=True)
    ]
    for found in decoded.signalled:
        hidden = found.hidden.float().cpu().clone()
        made = drawn.get(found.medium)
        latents = None if made is None else made.latents.float().cpu().clone()
        for at, row in enumerate(found.rows):
            one = _announced(generations[row], hidden[at], found.medium, codec)
            if made is not None and latents is not None:
                one = replace(
                    one, latents=latents[at], image=made.pictures[at], drawn=made.settings, **made.extras[at]
                )
            generations[row] = one
    return generations


def _said(request: Request, words: list[int], finish: Finish, codec: PromptCodec) -> Generation:
    prompt = request.encoded
    spans = Spans.of_lengths(
        system=prompt.n_system, picture=prompt.n_picture, text=prompt.n_text, answer=len(words), img=0
    )
    return Generation(
        prompt=prompt.prompt,
        text=codec.decode(words),
        token_ids=(*prompt.ids, *words),
        spans=spans,
        finish=finish,
        seed=request.seed,
        input_pixels=request.pixels,
    )


def _announced(one: Generation, hidden: Tensor, medium: Medium, codec: PromptCodec) -> Generation:
    """The answer going on with a medium's signal tokens."""
    ids = (*one.token_ids, *codec.signals[medium])
    spans = replace(one.spans, img=Span(len(one.token_ids), len(ids)))
    return replace(one, token_ids=ids, spans=spans, hidden=hidden, medium=medium)
