"""Unified-token models: a picture is a grid of tokens that the language model itself predicts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from nam.checks import whole
from nam.errors import InputError, TargetError
from nam.mllm.base import Draw
from nam.mllm.chat import Chat
from nam.mllm.picture_tokens import Sampling, cells_of
from nam.mllm.pictures import to_picture
from nam.mllm.token_drawing import Order, draw_tokens, in_reading_order
from nam.mllm.vlm import VLM
from nam.types import DrawSettings, Generation, Sample, Spans, Target


class Unified(VLM):
    """A frozen model that answers in words, or with `draw=True` by a picture alone, token by token.

    Picture tokens are drawn as the family's published inference does, with classifier-free guidance where it
    has that, and with the sample's own seed. A picture's target is the directions of its own tokens in the
    region: those of their logits given the prompt, as for words. Of a model in half precision, the picture's
    encoder and decoder stay in float32.

    Args:
        name: What reports call it.
        language_model: The whole model, the picture's encoder and decoder included.
        chat: Between prompts and what it reads.
        grid: Rows and columns of a picture's tokens.
        codes: How many different ones there are, K.
        sampling: How picture tokens are chosen.
        end_of_row: The token that ends each row of a picture but is no part of it; None for none.
        quiet_ids: Tokens that are never said in words, beside those that begin and end a picture.

    Attributes:
        begin_id: The token that begins a picture.
        keeps_states: Whether targets need the hidden states that predicted the tokens.
    """

    draws: ClassVar[bool] = True
    draws_tokens: ClassVar[bool] = True
    keeps_states: ClassVar[bool] = False

    def __init__(
        self,
        *,
        name: str,
        language_model: Any,
        chat: Chat,
        grid: tuple[int, int],
        codes: int,
        sampling: Sampling,
        end_of_row: int | None = None,
        quiet_ids: Sequence[int] = (),
    ) -> None:
        edges = [chat.processor.image_start_token, chat.processor.image_end_token]
        self.begin_id, end_id = chat.tokenizer.convert_tokens_to_ids(edges)
        self.quiet_ids = frozenset((*quiet_ids, self.begin_id, end_id))
        if language_model.dtype.itemsize < 4:
            # Rounding would make other tokens of a picture, and a coarser picture of its tokens.
            language_model.model.vqmodel.float()
        super().__init__(name=name, language_model=language_model, chat=chat)
        self.grid, self.codes = grid, codes
        self.sampling, self.end_of_row = sampling, end_of_row

    # --- what families differ in --------------------------------------------------------------------

    @abstractmethod
    def drawing_prompt(self, words: str) -> tuple[list[int], int]:
        """Ids that ask for a picture of `words`, up to the first of its tokens, and how many are before the
        words."""

    @abstractmethod
    def free_ids(self, ids: Sequence[int]) -> list[int]:
        """What guidance reads instead of that prompt."""

    @abstractmethod
    def code_logits(self, hidden: Tensor) -> Tensor:
        """Logits (..., K) of the K picture tokens, of last hidden states (..., H)."""

    @abstractmethod
    def embed_codes(self, codes: Tensor) -> Tensor:
        """Input embeddings (..., H) of picture tokens 0 to K - 1 (...)."""

    @abstractmethod
    def ids_of_codes(self, codes: Tensor) -> Tensor:
        """Picture tokens 0 to K - 1 as they stand in `Generation.token_ids`."""

    @abstractmethod
    def paint(self, codes: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) of grids of picture tokens (B, h, w), as the decoder gives them."""

    @abstractmethod
    def directions(self, ids: Tensor, states: Tensor | None) -> Tensor:
        """The direction (P, H) of each picture token's logit after the final norm, in any precision.

        Args:
            ids: The tokens, (P,).
            states: The last hidden states that predicted them, (P, H), of a family that `keeps_states`.
        """

    # --- draw ---------------------------------------------------------------------------------------

    def _answer(
        self,
        samples: Sequence[Sample],
        *,
        max_new_tokens: int,
        draw: Draw,
        steps: int | None,
        guidance: float | None,
    ) -> list[Generation]:
        if draw in ("audio", "video"):
            raise InputError(f"{self.name} draws pictures alone: ask for an image (draw=true)")
        if draw in (False, "auto"):
            rest: dict[str, Any] = {"steps": steps, "guidance": guidance}
            return super()._answer(samples, max_new_tokens=max_new_tokens, draw=False, **rest)
        if steps is not None:
            raise InputError(f"{self.name} draws token by token and has no denoising steps: leave steps out")
        sampling = self.sampling if guidance is None else replace(self.sampling, guidance=guidance)
        if not samples:
            return []
        orders = [self._order(sample, alone=len(samples) == 1) for sample in samples]
        with torch.inference_mode():
            codes, states = draw_tokens(self, orders, sampling)
            pixels = self._to_pixels(self.paint(codes))
            tokens = in_reading_order(self.ids_of_codes(codes), self.end_of_row)
        return [
            self._drawn(order, tokens[row], pixels[row], None if states is None else states[row], sampling)
            for row, order in enumerate(orders)
        ]

    def _order(self, sample: Sample, *, alone: bool) -> Order:
        try:
            seed = whole("seed", sample.seed, least=0, most=2**63 - 1)
            if sample.image is not None or sample.pictures:
                raise InputError(f"{self.name} draws from words alone: ask for a picture without giving one")
            encoded = self.chat.encode(sample.prompt, None)
            ids, system = self.drawing_prompt(encoded.prompt)
            lead = len(ids) - ids.index(self.begin_id)
            room = self.context - self.tokens_of_picture
            if room < 1:
                raise InputError(
                    f"a picture of {self.tokens_of_picture} tokens does not fit into the context of "
                    f"{self.context}"
                )
            if len(ids) > room:
                raise InputError(
                    f"the prompt has {len(ids)} tokens; at most {room} fit: the context of {self.context} "
                    f"must also hold a picture of {self.tokens_of_picture}"
                )
        except InputError as error:
            if alone:
                raise
            raise InputError(f"sample {sample.id}: {error}") from error
        return Order(encoded.prompt, ids, lead, system, seed)

    @property
    def tokens_of_picture(self) -> int:
        """Tokens of a picture, ends of rows but the last included."""
        rows, columns = self.grid
        return rows * columns + (0 if self.end_of_row is None else rows - 1)

    def _to_pixels(self, painted: Tensor) -> Tensor:
        """Pixels of painted pictures (B, 3, H, W), 0 black and 1 white: the image processor's way back."""
        images = self.chat.processor.image_processor
        mean, std = (
            painted.new_tensor(list(one))[:, None, None] for one in (images.image_mean, images.image_std)
        )
        return (painted * std + mean) / (255 * images.rescale_factor)

    def _drawn(
        self, order: Order, ids: Tensor, pixels: Tensor, states: Tensor | None, sampling: Sampling
    ) -> Generation:
        tokens = ids.tolist()
        spans = Spans.of_lengths(
            system=order.system,
            picture=0,
            text=len(order.ids) - order.lead - order.system,
            answer=0,
            img=order.lead + len(tokens),
        )
        rows, columns = self.grid
        return Generation(
            prompt=order.words,
            text="",
            token_ids=(*order.ids, *tokens),
            spans=spans,
            finish="img",
            seed=order.seed,
            hidden=None if states is None else states.float().cpu().clone(),
            image=to_picture(pixels),
            drawn=DrawSettings(str(sampling), rows * columns, sampling.guidance),
        )

    # --- attribute ----------------------------------------------------------------------------------

    def picture_target(self, generation: Generation, region: Tensor) -> Target:
        """The tokens of the cells that a region covers (`cells_of`); see `MLLM.picture_target`."""
        image = generation.image
        first = len(generation.token_ids) - self.tokens_of_picture
        if image is None or first <= generation.spans.img.start:
            raise TargetError(f"the answer {generation.text!r} is no picture of {self.name}")
        if tuple(region.shape) != (image.height, image.width):
            raise TargetError(
                f"expected a region of the picture's size {(image.height, image.width)}, "
                f"got {tuple(region.shape)}"
            )
        cells = cells_of(region, grid=self.grid)
        rows, columns = cells.nonzero(as_tuple=True)
        width = self.grid[1] + (self.end_of_row is not None)
        places = (first + rows * width + columns).tolist()
        tokens = tuple(generation.token_ids[place] for place in places)
        states = generation.hidden
        if self.keeps_states and states is None:
            raise TargetError("the states that predicted the picture's tokens were not kept: draw it again")
        found = self.directions(
            torch.tensor(tokens, device=self.device),
            None if states is None else states[cells.flatten()].to(self.device),
        )
        return Target(
            modality="image",
            positions=tuple(place - 1 for place in places),
            directions=found.to(torch.promote_types(found.dtype, torch.float32)),
            token_ids=tokens,
        )

    def _never_said(self) -> set[int]:
        return super()._never_said() | self.quiet_ids
