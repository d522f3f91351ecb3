"""The interface of a multimodal LLM: all that the rest of the package knows about a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from nam.checks import expect
from nam.errors import InputError, ModelError
from nam.mllm import ffn
from nam.mllm.layout import Layout
from nam.types import Generation, Sample, Target

if TYPE_CHECKING:
    from nam.mllm.device_map import Spread
    from nam.mllm.pictures import Picture

#: Whether to draw: when the model says so, always (a picture, or the medium that is named), or never.
Draw = Literal["auto", "image", "audio", "video"] | bool

#: The names among them.
DRAWS = ("auto", "image", "audio", "video")

#: What watches the forward passes of one call: a recorder of `nam.hooks`, or any other context manager.
Record = AbstractContextManager[Any] | None


@dataclass(frozen=True, eq=False)
class Replayed:
    """One teacher-forced forward over finished generations, padded on the left.

    Attributes:
        hidden: Last hidden states, after the final norm: (B, T, H).
        mask: 1 at tokens, 0 at padding: (B, T).
        offsets: Padding of each row: position p of a generation's spans is column offsets[b] + p.
    """

    hidden: Tensor
    mask: Tensor
    offsets: tuple[int, ...]


class MLLM(nn.Module, ABC):
    """A frozen multimodal LLM: always in evaluation mode, no parameter asks for a gradient.

    Args:
        name: What reports call it.
        language_model: A decoder-only transformers model with a language-model head.
        tokenizer: Its tokenizer, with every token that the model reads.

    Attributes:
        draws: Whether its family can draw pictures; False for one that answers in words alone.
        draws_tokens: Whether its pictures are made of tokens that the language model itself predicts. Such a
            model answers in words, or with `draw=True` by a picture alone; its pictures need no relevance.
        spread: Where its layers are, once `nam.mllm.spread` has put them on several devices; it stays there.
    """

    draws: ClassVar[bool] = True
    draws_tokens: ClassVar[bool] = False

    def __init__(self, *, name: str, language_model: Any, tokenizer: Any) -> None:
        super().__init__()
        self.name = name
        self.language_model = language_model
        self.tokenizer = tokenizer
        self.layout: Layout | None = None
        self.spread: Spread | None = None

    def announce(self, layout: Layout | None) -> None:
        """Tell hooks which tokens the next forward pass of the language model reads."""
        self.layout = layout

    def generate_batch(
        self,
        samples: Sequence[Sample],
        *,
        max_new_tokens: int = 40,
        draw: Draw = "auto",
        steps: int | None = None,
        guidance: float | None = None,
        record: Record = None,
    ) -> list[Generation]:
        """Answer every sample, greedily; a sample's answer does not depend on the others.

        Args:
            samples: What is asked.
            max_new_tokens: Most words of an answer; the context may leave room for fewer.
            draw: "auto" draws when the model announces a picture, or another medium that it can draw; True or
                "image" draws a picture always, "audio" a sound, "video" a video; False never (hidden states
                at the [IMG] positions are still given).
            steps: Denoising steps; None for the model's default.
            guidance: Classifier-free guidance scale; None for the model's default.
            record: Reads activations meanwhile, such as `nam.hooks.Recorder(mllm)`.

        Raises:
            InputError: a sample or a setting that the model cannot take; the message names the sample.
        """
        if not (isinstance(draw, bool) or (isinstance(draw, str) and draw in DRAWS)):
            raise InputError(f'draw must be "auto", True or False, or what to draw, got {draw!r}')
        with self._watched(record):
            return self._answer(
                samples, max_new_tokens=max_new_tokens, draw=draw, steps=steps, guidance=guidance
            )

    def replay(self, generations: Sequence[Generation], *, record: Record = None) -> Replayed:
        """One forward pass over finished generations; differentiable when gradients are enabled.

        Args:
            generations: What was said and drawn.
            record: As in `generate_batch`.

        Raises:
            InputError: there is none.
        """
        if not generations:
            raise InputError("expected at least one generation to replay")
        with self._watched(record):
            return self._replay(generations)

    @contextmanager
    def _watched(self, record: Record) -> Iterator[None]:
        """Forward passes that `record` sees; no layout stays announced behind them."""
        if record is not None:
            expect(AbstractContextManager, record, "record: expected a recorder, as nam.hooks.Recorder(mllm)")
        with record or nullcontext():
            try:
                yield
            finally:
                self.announce(None)

    @abstractmethod
    def _answer(
        self,
        samples: Sequence[Sample],
        *,
        max_new_tokens: int,
        draw: Draw,
        steps: int | None,
        guidance: float | None,
    ) -> list[Generation]:
        """What `generate_batch` promises; a family announces the layout of every forward pass."""

    @abstractmethod
    def _replay(self, generations: Sequence[Generation]) -> Replayed:
        """What `replay` promises; a family announces the layout of the forward pass."""

    def picture_target(self, generation: Generation, region: Tensor) -> Target:
        """What a region of a picture is attributed to, of a model that draws by tokens.

        Args:
            generation: With a picture.
            region: bool (H, W), of the picture's size.

        Raises:
            TargetError: nothing was drawn, or the region is empty or of another size.
            ModelError: the model draws in another way; a relevance provider finds its targets.
        """
        raise ModelError(f"{self.name} does not draw by tokens: find the relevance of the region instead")

    def generate(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        image: Picture | Sequence[Picture | tuple[Picture, ...] | None] | None = None,
        seed: int | Sequence[int] = 0,
        max_new_tokens: int = 40,
        draw: Draw = "auto",
        steps: int | None = None,
        guidance: float | None = None,
        record: Record = None,
    ) -> Any:
        """Answer a prompt, a picture, or both; or a batch, when any of them is a list.

        What is given once counts for the whole batch: one seed for all gives every picture the same noise.
        Several pictures of one prompt are a tuple in a list: `generate([prompt], image=[(one, other)])`.
        The other arguments are those of `generate_batch`.

        Returns:
            A `Generation`; for a batch, a list of them.

        Raises:
            InputError: as `generate_batch`; lists of different lengths.
        """
        given: dict[str, Any] = {"prompt": prompt, "image": image, "seed": seed}
        lengths = {key: len(value) for key, value in given.items() if isinstance(value, list | tuple)}
        if len(set(lengths.values())) > 1:
            counts = ", ".join(f"{key} {length}" for key, length in lengths.items())
            raise InputError(f"expected lists of one length, got {counts}")
        count = next(iter(lengths.values()), 1)
        samples = []
        for row in range(count):
            one = {key: value[row] if key in lengths else value for key, value in given.items()}
            several = isinstance(one["image"], tuple)
            samples.append(
                Sample(
                    id=str(row),
                    prompt="" if one["prompt"] is None else one["prompt"],
                    image=None if several else one["image"],
                    seed=one["seed"],
                    pictures=one["image"] if several else (),
                )
            )
        answers = self.generate_batch(
            samples, max_new_tokens=max_new_tokens, draw=draw, steps=steps, guidance=guidance, record=record
        )
        return answers if lengths else answers[0]

    @cached_property
    def ffn_sites(self) -> tuple[ffn.FfnSite, ...]:
        """Where the neurons are, one site a layer; verified when first asked for."""
        return ffn.find_sites(self.language_model)

    @property
    def final_norm(self) -> nn.Module | None:
        """The norm between the residual stream and the unembedding."""
        return ffn.final_norm(self.language_model)

    @property
    def unembedding(self) -> Tensor:
        """The unembedding W_u, (V, H)."""
        return ffn.unembedding(self.language_model)

    @property
    def device(self) -> torch.device:
        """Where the language model is; of one on several devices, all of it but layers."""
        return self.unembedding.device

    @property
    def dtype(self) -> torch.dtype:
        """The language model's precision."""
        return self.unembedding.dtype

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        if self.spread is None:
            return super()._apply(fn, recurse)
        given = self.unembedding.new_empty(0)
        if (asked := fn(given).dtype) != given.dtype:
            name = str(asked).removeprefix("torch.")
            raise ModelError(f"a model on several devices is loaded in its precision: set mllm.dtype={name}")
        return self

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: a frozen model has no dropout, whatever a trainer asks of its children."""
        return super().train(False)
