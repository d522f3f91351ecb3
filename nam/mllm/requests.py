"""Between the user's samples and the model: samples checked and encoded, answers put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nam.checks import expect, whole
from nam.errors import InputError
from nam.mllm.decode import Decoded
from nam.mllm.pictures import read_picture, to_picture, to_pixels
from nam.mllm.prompts import EncodedPrompt, PromptCodec
from nam.types import DrawSettings, Generation, Sample, Spans


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
    room = context - config.num_img_tokens - len(encoded.ids)
    if room < 1:
        raise InputError(
            f"the prompt has {len(encoded.ids)} tokens ({encoded.n_picture} of them a picture's); at most "
            f"{context - config.num_img_tokens - 1} fit, because the context of {context} must also hold an "
            f"answer and {config.num_img_tokens} [IMG] tokens"
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


def to_generations(
    requests: Sequence[Request],
    decoded: Decoded,
    *,
    codec: PromptCodec,
    settings: DrawSettings | None,
    latents: Tensor | None,
    pictures: Tensor | None,
) -> list[Generation]:
    """The answers of a batch; to be called outside inference mode, so that their tensors can take part in
    gradients later.

    Args:
        requests: What was asked.
        decoded: What the language model answered.
        codec: The model's conventions.
        settings: How the pictures were drawn, or None.
        latents, pictures: Of `decoded.img_rows`: (len(img_rows), C, h, w) and pixels in [0, 1], or None.
    """
    hidden = decoded.hidden.float().cpu().clone()
    latents = None if latents is None else latents.float().cpu().clone()
    generations = []
    for row, request in enumerate(requests):
        words, prompt = decoded.answers[row], request.encoded
        at = decoded.img_rows.index(row) if row in decoded.img_rows else None
        img_ids = () if at is None else codec.img_ids
        spans = Spans.of_lengths(
            system=prompt.n_system,
            picture=prompt.n_picture,
            text=prompt.n_text,
            answer=len(words),
            img=len(img_ids),
        )
        generation = Generation(
            prompt=prompt.prompt,
            text=codec.decode(words),
            token_ids=(*prompt.ids, *words, *img_ids),
            spans=spans,
            finish=decoded.finish[row],
            seed=request.seed,
            input_pixels=request.pixels,
            hidden=None if at is None else hidden[at],
        )
        if at is not None and latents is not None and pictures is not None:
            image = to_picture(pictures[at])
            generation = replace(generation, latents=latents[at], image=image, drawn=settings)
        generations.append(generation)
    return generations
