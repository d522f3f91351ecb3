"""The things that flow through a run, as frozen dataclasses.

`Sample` (what is asked) -> `Generation` (what the model answered) -> scores of `Neuron`s for a `Concept`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from nam.spans import Span as Span
from nam.spans import Spans as Spans

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from nam.mllm.pictures import Picture

#: Stands in `token_ids` where a picture's soft token stands: it has no id in any vocabulary.
PICTURE_ID = -1

#: Why decoding ended: end token, the length allowed, or the model announced a picture.
Finish = Literal["stop", "length", "img"]

#: What can be drawn: a picture, a sound, a video.
Medium = Literal["image", "audio", "video"]

#: The same, and what a reader calls each.
MEDIA: Mapping[Medium, str] = {"image": "picture", "audio": "sound", "video": "video"}

#: What a neuron is held responsible for: a word that was said, or a thing that was drawn.
Modality = Literal["text", "image", "audio", "video"]


@dataclass(frozen=True)
class Concept:
    """A thing to look for, and every word that stands for it (singular, plural, nicknames)."""

    name: str
    forms: tuple[str, ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        """The name first, then its other surface forms, without repetition."""
        return tuple(dict.fromkeys((self.name, *self.forms)))


@dataclass(frozen=True, eq=False)
class Sample:
    """One thing to ask of a model: a prompt, a picture (path, PIL or uint8 array) or both, and the seed of
    what it draws; `pictures` instead of `image` for a dialogue with several, which few families read."""

    id: str
    prompt: str = ""
    image: Picture | None = None
    seed: int = 0
    concept: Concept | None = None
    caption: str | None = None
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True)
class DrawSettings:
    """How a picture was drawn; with the seed, enough to draw it again."""

    sampler: str
    steps: int
    guidance: float


@dataclass(frozen=True, eq=False)
class Sound:
    """What can be heard: a waveform (N,), float32, from -1 to 1, of `rate` values a second."""

    waveform: Tensor
    rate: int


@dataclass(frozen=True, eq=False)
class Generation:
    """One answer of a model. All tensors are float32 on the CPU and carry no graph.

    Attributes:
        prompt: The prompt as the model read it.
        text: The answer in words, special tokens left out.
        token_ids: The whole sequence without padding: system, picture (`PICTURE_ID`), prompt, answer and
            [IMG] tokens. An end token is predicted but never read, and is not part of it.
        spans: Where each part stands in `token_ids`.
        finish: Why decoding ended.
        seed: Seed of the picture's noise, or of its tokens.
        input_pixels: The picture that was asked about, as the vision tower saw it: (3, S, S), (P, 3, S, S) of
            several, or in the shape that the model's own processor gives; None without one.
        input_extras: What else the processor gave of the picture, such as grids and masks, by the model's own
            names; empty where the pixels say all.
        hidden: Last hidden states at the [IMG] positions: (8, H), or None when none were produced. Of a
            picture made of tokens: those that predicted its tokens, where a target needs them.
        latents: The drawn picture's latents, in the diffusion model's normalised scale: (C, h, w), or None;
            of a sound (C, time, tones), of a video (C, frames, h, w).
        image: The drawn picture (RGB), or None; of a sound its spectrogram, time to the right and high tones
            above, of a video its frames row by row. A region of what was drawn is a region of this.
        drawn: How it was drawn, or None.
        medium: What the [IMG] tokens, or those that stand there, announce.
        sound: The sound, where one was drawn.
        frames: The frames of a video, where one was drawn.
    """

    prompt: str
    text: str
    token_ids: tuple[int, ...] = field(repr=False)
    spans: Spans = field(repr=False)
    finish: Finish
    seed: int
    input_pixels: Tensor | None = field(default=None, repr=False)
    input_extras: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    hidden: Tensor | None = field(default=None, repr=False)
    latents: Tensor | None = field(default=None, repr=False)
    image: Image | None = None
    drawn: DrawSettings | None = None
    medium: Medium = "image"
    sound: Sound | None = field(default=None, repr=False)
    frames: tuple[Image, ...] = field(default=(), repr=False)

    @property
    def answer_ids(self) -> tuple[int, ...]:
        """Token ids of the answer in words."""
        return self.token_ids[self.spans.answer.start : self.spans.answer.stop]

    def until(self, stop: int) -> Generation:
        """Its tokens before position `stop`, which lies behind the prompt: all that a causal model needs to
        replay these positions."""
        if stop >= len(self.token_ids) or stop < self.spans.answer.start:
            return self
        return replace(self, token_ids=self.token_ids[:stop], spans=self.spans.until(stop))


@dataclass(frozen=True, order=True)
class Neuron:
    """Hidden unit `unit` of the FFN of layer `layer`, both counted from 0; written "L3.U17"."""

    layer: int
    unit: int

    def __post_init__(self) -> None:
        if self.layer < 0 or self.unit < 0:
            raise ValueError(f"layer and unit of a neuron count from 0, got {self.layer} and {self.unit}")

    def __str__(self) -> str:
        return f"L{self.layer}.U{self.unit}"

    @classmethod
    def parse(cls, text: str) -> Neuron:
        """The neuron written "L3.U17".

        Raises:
            ValueError: the text has another form.
        """
        match = re.fullmatch(r"L(\d+)\.U(\d+)", text.strip())
        if match is None:
            raise ValueError(f"expected a neuron written like L3.U17, got {text!r}")
        return cls(int(match[1]), int(match[2]))


@dataclass(frozen=True)
class NeuronSet:
    """Different neurons of one model, in order of layer and unit."""

    neurons: tuple[Neuron, ...]

    @classmethod
    def of(cls, neurons: Iterable[Neuron]) -> NeuronSet:
        """The set of these neurons; repeated ones count once."""
        return cls(tuple(sorted(set(neurons))))

    def __post_init__(self) -> None:
        if any(a >= b for a, b in zip(self.neurons, self.neurons[1:], strict=False)):
            raise ValueError("neurons must be different and in order; build the set with NeuronSet.of(...)")

    def __len__(self) -> int:
        return len(self.neurons)

    def __iter__(self) -> Iterator[Neuron]:
        return iter(self.neurons)

    def __and__(self, other: NeuronSet) -> NeuronSet:
        return NeuronSet.of(set(self.neurons) & set(other.neurons))

    def __or__(self, other: NeuronSet) -> NeuronSet:
        return NeuronSet.of((*self.neurons, *other.neurons))

    def __sub__(self, other: NeuronSet) -> NeuronSet:
        return NeuronSet.of(set(self.neurons) - set(other.neurons))

    def by_layer(self) -> dict[int, tuple[int, ...]]:
        """Units of each layer that has any, both ascending."""
        units: dict[int, list[int]] = {}
        for neuron in self.neurons:
            units.setdefault(neuron.layer, []).append(neuron.unit)
        return {layer: tuple(found) for layer, found in units.items()}


@dataclass(frozen=True, eq=False)
class Target:
    """What is attributed, as one direction per position, in the space AFTER the language model's final norm.

    Attributes:
        modality: Whether a word, or what was drawn.
        positions: Ascending positions in `Generation.token_ids` whose forward pass matters: P of them.
        directions: (P, H) float32 or finer: unembedding rows of the tokens produced next, or relevances R.
        token_ids: The token produced at each position, (P,); () for relevances.
        signed: Whether directions have their own sign (text, gradients) or are the paper's R in (0, 1).
        form_ids: Text: tokens that are the concept: every form of one token, and the tokens produced.
    """

    modality: Modality
    positions: tuple[int, ...]
    directions: Tensor
    token_ids: tuple[int, ...] = ()
    signed: bool = True
    form_ids: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if not self.positions or tuple(sorted(set(self.positions))) != self.positions:
            raise ValueError(f"positions of a target must be ascending, at least one; got {self.positions}")
        if self.directions.ndim != 2 or len(self.directions) != len(self.positions):
            got = tuple(self.directions.shape)
            raise ValueError(f"expected {len(self.positions)} directions (P, H), got a tensor of shape {got}")


@dataclass(frozen=True, eq=False)
class Scores:
    """How much each neuron of a model is responsible for a concept in one generation.

    Attributes:
        concept: What was looked for.
        modality: In the words or in what was drawn.
        method: Name of the method.
        scores: (L, d) float32; the higher, the more responsible.
        activations: (L, d) float32, each neuron's mean over the target's positions.
    """

    concept: Concept
    modality: Modality
    method: str
    scores: Tensor
    activations: Tensor
