"""What a neuron's ablation puts in its place: nothing, or its mean over answers to other prompts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from nam.data.prompts import ScenePrompts
from nam.errors import InputError
from nam.hooks import Recorder
from nam.reduction.constants import once
from nam.types import MEDIA, Modality, Sample

if TYPE_CHECKING:
    from nam.mllm.base import MLLM
    from nam.reduction.base import Context

#: The activation that a neuron's own is compared with: 0, or its mean over the reference set.
Baseline = Literal["zero", "mean"]

#: The reference set: combinations that are in no test split, and a seed that no run has by default.
REFERENCE = ScenePrompts(draw=2, draw_two=1, draw_riddle=1, riddle=1, caption=0, split="train", seed=20_240)

_BATCH = 16


def activations_of(baseline: Baseline, context: Context, *, method: str) -> Tensor | None:
    """What a method compares activations with, (L, d) on the model's device; None for 0.

    Raises:
        InputError: there is no mean; the message says which of the method's options to change.
    """
    if baseline == "zero":
        return None
    try:
        return mean_activations(context.mllm, modality=context.target.modality)
    except InputError as error:
        raise InputError(f"{error}: set reduction.{method}.baseline=zero") from error


def mean_activations(mllm: MLLM, *, modality: Modality = "text") -> Tensor:
    """Each neuron's mean activation over the answers to `REFERENCE`, (L, d) on the model's device.

    float32, or float64 for such a model. Every position of every answer counts once: for "text" those whose
    forward passes predict the answer's words and its end, for "image" the [IMG] positions, for "audio" and
    "video" the tokens that stand there. It is found once for a model, and again when a weight has changed.

    Raises:
        InputError: the model announces no picture, sound or video in any answer.
    """
    weights = mllm.language_model.parameters()
    return once(mllm, ("mean activations", modality), lambda: _measure(mllm, modality), weights=weights)


def _measure(mllm: MLLM, modality: Modality) -> Tensor:
    read = [(activations.sum(1), activations.shape[1]) for activations in _read(mllm, modality)]
    if not read:
        name = "word" if modality == "text" else MEDIA[modality]
        raise InputError(
            f"{mllm.name} announces no {name} in any answer to the reference prompts, so there is no mean to "
            "compare with"
        )
    sums, counts = zip(*read, strict=True)
    return torch.stack(sums).sum(0) / sum(counts)


def _read(mllm: MLLM, modality: Modality) -> Iterator[Tensor]:
    """Activations (L, P, d) of each answer that has such positions."""
    prompts = [REFERENCE[index].sample.prompt for index in range(len(REFERENCE))]
    for start in range(0, len(prompts), _BATCH):
        samples = [Sample(id=prompt, prompt=prompt) for prompt in prompts[start : start + _BATCH]]
        recorder = Recorder(mllm, where="answer")
        generations = mllm.generate_batch(samples, draw=False, record=recorder)
        for generation, recorded in zip(generations, recorder.recorded, strict=True):
            img = set(generation.spans.img)
            wanted = [at for at in recorded.positions if (at in img) is (modality != "text")]
            if wanted and modality in ("text", generation.medium):
                yield recorded.at(wanted).activations
