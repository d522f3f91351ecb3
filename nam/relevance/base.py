"""The interface of a relevance provider, and the maths that all of them share (NAM paper, I-neurons, step 1).

With h the last hidden states at the [IMG] positions and P_M the sum of the drawn picture's pixels over the
region M and its colours, a provider gives dP_M/dh or an estimate of it. From that follows the relevance:

    signed:   R[i, j] = dP_M/dh[i, j]
    unsigned: rho[i, j] = |h[i, j] * dP_M/dh[i, j]|,  R = (rho - min rho) / (max rho - min rho) over j
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from nam.checks import require_choices
from nam.errors import ConfigError, InputError, NamError
from nam.mllm.base import MLLM
from nam.types import DrawSettings, Generation, Medium

#: What the [IMG] positions are combined to before scaling; the result stands at each of them.
Aggregate = Literal["none", "mean", "max", "sum"]


class RelevanceError(NamError):
    """A sample that has no relevance: no picture, no region, or no finite gradient; an error row."""


@dataclass(frozen=True, eq=False)
class RelevanceMap:
    """How much a region of the picture owes to each hidden state that the generator read.

    Attributes:
        values: (P, H) float32 on the CPU, P the number of [IMG] positions. Each row from 0 to 1, or signed.
        signed: Whether the values are gradients with their sign.
        cost: Passes through the U-Net that it took, for one sample. A forward counts one, a guided step
            two. A backward counts one too: with frozen parameters it computes gradients of inputs alone, and
            took 0.9 to 1.3 times a forward where it was measured.
    """

    values: Tensor
    signed: bool
    cost: float


@dataclass(frozen=True, eq=False)
class Pulled:
    """Gradients dP_M/dh, or estimates: (B, P, H) in float32 or float64, and the cost as in `RelevanceMap`."""

    gradients: Tensor
    cost: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Relevance(ABC):
    """From the mask of a concept in a drawn picture to the relevance of the hidden states behind it.

    Attributes:
        signed: Give the gradient itself: not multiplied by the hidden states, not scaled.
        aggregate: "none" gives each [IMG] position its own relevance; "mean", "max" and "sum" combine the
            positions, and every position gets the result ("mean" and "sum" differ for signed ones only).
    """

    signed: bool = False
    aggregate: Aggregate = "none"

    def __post_init__(self) -> None:
        require_choices(self, "relevance")
        if self.signed and self.aggregate == "max":
            raise ConfigError("relevance.aggregate=max has no meaning for signed=true: use none, mean or sum")

    @abstractmethod
    def pull(self, mllm: MLLM, generations: Sequence[Generation], masks: Tensor) -> Pulled:
        """Pull regions back to the hidden states at the [IMG] positions.

        Args:
            mllm: The model that drew the pictures.
            generations: With pictures, or all of one other medium, all drawn with the same settings.
            masks: bool (B, H, W) of the pictures' size, none of them empty.
        """

    def __call__(self, mllm: MLLM, generation: Generation, mask: Tensor) -> RelevanceMap:
        """The relevance of one generation's hidden states for the region `mask`, bool (H, W).

        Raises:
            RelevanceError: the generation has no picture, the mask is empty or of another size, or the
                result is not finite or the same everywhere.
            ModelError, ConfigError: the model cannot give it.
        """
        found = self.batch(mllm, [generation], [mask])[0]
        if isinstance(found, RelevanceError):
            raise found
        return found

    def batch(
        self, mllm: MLLM, generations: Sequence[Generation], masks: Sequence[Tensor]
    ) -> list[RelevanceMap | RelevanceError]:
        """As a call for each pair, but pictures that were drawn alike share one pass; the result of a
        sample does not depend on the others. What a call raises for a sample stands in its place.

        Raises:
            InputError: not as many masks as generations.
            ModelError, ConfigError: the model cannot give relevance at all.
        """
        if len(generations) != len(masks):
            raise InputError(f"expected a mask for each of {len(generations)} generations, got {len(masks)}")
        found: dict[int, RelevanceMap | RelevanceError] = {}
        alike: dict[tuple[DrawSettings | None, Medium, tuple[int, ...]], list[int]] = {}
        for row, (generation, mask) in enumerate(zip(generations, masks, strict=True)):
            try:
                _check(generation, mask)
            except RelevanceError as error:
                found[row] = error
            else:
                alike.setdefault((generation.drawn, generation.medium, tuple(mask.shape)), []).append(row)
        for rows in alike.values():
            # Gradients are wanted, also from inside a loop that runs under inference mode.
            with torch.inference_mode(False), torch.enable_grad():
                regions = torch.stack([masks[row] for row in rows])
                pulled = self.pull(mllm, [generations[row] for row in rows], regions)
            for row, gradient in zip(rows, pulled.gradients.detach().cpu(), strict=True):
                found[row] = self._to_map(generations[row], gradient, pulled.cost)
        return [found[row] for row in range(len(generations))]

    def _to_map(self, generation: Generation, gradient: Tensor, cost: float) -> RelevanceMap | RelevanceError:
        hidden = cast(Tensor, generation.hidden)
        try:
            values = relevance_of(hidden, gradient, signed=self.signed, aggregate=self.aggregate)
        except RelevanceError as error:
            return error
        return RelevanceMap(values, self.signed, cost)


def relevance_of(
    hidden: Tensor, gradient: Tensor, *, signed: bool = False, aggregate: Aggregate = "none"
) -> Tensor:
    """R of hidden states and their gradients, both (P, H): float32 (P, H). See the head of this file.

    Raises:
        RelevanceError: it is not finite, or the same everywhere at some position.
    """
    gradient = gradient.double()
    values = gradient if signed else (hidden.double() * gradient).abs()
    if not values.isfinite().all():
        raise RelevanceError("the gradient of the region is not finite")
    match aggregate:
        case "mean":
            values = values.mean(0, keepdim=True)
        case "sum":
            values = values.sum(0, keepdim=True)
        case "max":
            values = values.amax(0, keepdim=True)
    low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    if bool((low == high).any()):
        raise RelevanceError("the region does not depend on the hidden state at some [IMG] position")
    scaled = values if signed else (values - low) / (high - low)
    return scaled.expand_as(gradient).to(torch.float32).contiguous()


@contextmanager
def counted_rows(unet: nn.Module) -> Iterator[list[int]]:
    """Count a U-Net's work: the list gets the number of rows of each forward pass, recomputed ones too."""
    rows: list[int] = []
    handle = unet.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    try:
        yield rows
    finally:
        handle.remove()


def _check(generation: Generation, mask: Tensor) -> None:
    if generation.image is None or generation.hidden is None or generation.drawn is None:
        raise RelevanceError("no picture was drawn")
    if not generation.hidden.isfinite().all():
        raise RelevanceError("the hidden states at the [IMG] positions are not finite")
    size = (generation.image.height, generation.image.width)
    if mask.dtype != torch.bool or tuple(mask.shape) != size:
        raise RelevanceError(
            f"expected a bool mask of the picture's size {size}, got {mask.dtype} {tuple(mask.shape)}"
        )
    if not mask.any():
        raise RelevanceError("the mask is empty: the concept was not found in the picture")
