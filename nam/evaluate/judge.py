"""The judge: an independent classifier that says what a picture of the world shows.

It is trained on renders alone and on nothing that the model draws, and no training ever sees its verdicts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from nam.data.scenes import to_pixels
from nam.errors import InputError, ModelError
from nam.folders import weights_folder
from nam.mllm.parts import freeze, read_pretrained
from nam.world.language import Facts
from nam.world.scene import COLOURS, NOUNS, PLACES

#: Where the judge is, inside a model's folder.
JUDGE = "judge"

#: Classes of every noun: absent, then the colours.
CLASSES_PER_NOUN = 1 + len(COLOURS)

#: Side of the pictures that are judged, in pixels.
SIDE = 64

_BATCH = 128

#: Pictures: uint8 (B, 64, 64, 3) RGB, or a sequence of PIL pictures of 64x64.
Pictures = NDArray[np.uint8] | Sequence[Image.Image]


@dataclass(frozen=True)
class Verdict:
    """What a picture shows.

    Attributes:
        things: noun -> (colour, probability that the noun is there), of every noun that is there with a
            probability of at least one half; the surest first.
        place: The likeliest place.
        place_probability: Its probability.
    """

    things: Mapping[str, tuple[str, float]]
    place: str
    place_probability: float

    @property
    def facts(self) -> Facts:
        """The verdict as a caption would state it; its things stand in order of certainty."""
        return Facts(tuple((noun, colour) for noun, (colour, _) in self.things.items()), self.place)


class Judge:
    """A frozen classifier of noun, colour and place.

    Args:
        model: transformers' ResNetForImageClassification with the labels that `split_logits` reads.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = freeze(model)

    def __call__(self, images: Pictures) -> list[Verdict]:
        """A verdict on each picture.

        Raises:
            InputError: pictures of another shape or type.
        """
        return verdicts(*split_logits(self._logits(images)))

    def evidence(self, images: Pictures) -> Tensor:
        """Log-odds that each noun is there, float32 (B, nouns), in the order of NOUNS.

        Raises:
            InputError: pictures of another shape or type.
        """
        return log_odds(split_logits(self._logits(images))[0])

    @torch.inference_mode()
    def _logits(self, images: Pictures) -> Tensor:
        pixels = to_pixels(as_array(images))
        parameter = next(self.model.parameters())
        found = [self.model(pixel_values=part.to(parameter)).logits for part in pixels.split(_BATCH)]
        return torch.cat(found).float().cpu()


def load_judge(folder: str | Path = "tiny_gill") -> Judge:
    """The judge of a weights folder (a path, or the name of a folder that the package ships).

    Raises:
        ModelError: the folder holds no judge, or one of another make.
    """
    from transformers import ResNetForImageClassification

    path = weights_folder(folder) / JUDGE
    model: Any = read_pretrained(ResNetForImageClassification, path, torch.float32)
    expected, found = len(NOUNS) * CLASSES_PER_NOUN + len(PLACES), model.config.num_labels
    if found != expected:
        raise ModelError(f"{path}: a judge of this world has {expected} labels, got {found}")
    return Judge(model)


def split_logits(logits: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 13 * 9 + 6) -> presence (B, 13, 9): absent, then the colours; place (B, 6)."""
    presence, place = logits.split([len(NOUNS) * CLASSES_PER_NOUN, len(PLACES)], dim=-1)
    return presence.unflatten(-1, (len(NOUNS), CLASSES_PER_NOUN)), place


def log_odds(presence: Tensor) -> Tensor:
    """log P(there) / P(absent), (B, 13), of logits (B, 13, 9)."""
    return presence[..., 1:].logsumexp(-1) - presence[..., 0]


def verdicts(presence: Tensor, place: Tensor) -> list[Verdict]:
    """What logits (B, 13, 9) and (B, 6) say."""
    there = log_odds(presence).sigmoid().tolist()
    colours = presence[..., 1:].argmax(-1).tolist()
    places = place.softmax(-1)
    found = []
    for row, likely in enumerate(places.argmax(-1).tolist()):
        seen = [
            (noun, (COLOURS[colours[row][i]], there[row][i]))
            for i, noun in enumerate(NOUNS)
            if there[row][i] >= 0.5
        ]
        seen.sort(key=lambda item: -item[1][1])
        found.append(Verdict(MappingProxyType(dict(seen)), PLACES[likely], float(places[row, likely])))
    return found


def as_array(images: Pictures) -> NDArray[np.uint8]:
    """The pictures as one uint8 array (B, 64, 64, 3).

    Raises:
        InputError: another shape or type, or no picture.
    """
    array = images if isinstance(images, np.ndarray) else _stack(images)
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[1:] != (SIDE, SIDE, 3) or not len(array):
        raise InputError(
            f"expected uint8 pictures of shape (B, {SIDE}, {SIDE}, 3) to judge, "
            f"got {array.dtype} of shape {array.shape}"
        )
    return np.require(array, requirements=["C", "W"])  # torch warns of what it cannot write to


def _stack(images: Sequence[Image.Image]) -> NDArray[np.uint8]:
    if not images or not all(isinstance(image, Image.Image) for image in images):
        kinds = ", ".join(sorted({type(image).__name__ for image in images})) or "an empty list"
        raise InputError(f"expected PIL pictures or one uint8 array to judge, got {kinds}")
    for image in images:
        if image.size != (SIDE, SIDE):
            width, height = image.size
            raise InputError(
                f"expected pictures of {SIDE}x{SIDE} to judge, got {width}x{height}: the judge knows the "
                "drawn scenes alone; models with other pictures are edited in Python, by nam.edit"
            )
    return np.stack([np.asarray(image.convert("RGB")) for image in images])
