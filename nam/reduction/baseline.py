"""What a neuron's ablation puts in its place: nothing, or its mean over answers to other prompts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from nam.data.prompts import ScenePrompts
from nam.errors import InputError
from nam.hooks import Recorder
from nam.types import MEDIA, Modality, Sample

if TYPE_CHECKING:
    from nam.mllm.base import MLLM

#: The activation that a neuron's own is compared with: 0, or its mean over the reference set.
Baseline = Literal["zero", "mean"]

#: The reference set: combinations that are in no test split, and a seed that no run has by default.
REFERENCE = ScenePrompts(draw=2, draw_two=1, draw_riddle=1, riddle=1, caption=0, split="train", seed=20_240)

_BATCH = 16

_FOUND: WeakKeyDictionary[MLLM, dict[Modality, tuple[tuple[object, ...], Tensor]]] = WeakKeyDictionary()


def mean_activations(mllm: MLLM, *, modality: Modality = "text") -> Tensor:
    """Each neuron's mean activation over the answers to `REFERENCE`, (L, d) on the model's device.

    float32, or float64 for such a model. Every position of every answer counts once: for "text" those whose
    forward passes predict the answer's words and its end, for "image" the [IMG] positions, for "audio" and
    "video" the tokens that stand there. It is found once for a model, and again when a weight has changed.

    Raises:
        InputError: the model announces no picture, sound or video in any answer.
    """
    state = tuple((p.data_ptr(), p.device, p.dtype, p._version) for p in mllm.language_model.parameters())
    known = _FOUND.setdefault(mllm, {})
    if modality not in known or known[modality][0] != state:
        known[modality] = (state, _measure(mllm, modality))
    return known[modality][1]


def _measure(mllm: MLLM, modality: Modality) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        read = [(activations.sum(1), activations.shape[1]) for activations in _read(mllm, modality)]
        if not read:
            name = "word" if modality == "text" else MEDIA[modality]
            raise InputError(
                f"{mllm.name} announces no {name} in any answer to the reference prompts, so there is no "
                "mean to compare with: set reduction.<method>.baseline=zero"
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
