"""Pictures as grids of tokens: which cells a region covers, and which token is drawn next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nam.checks import whole
from nam.errors import ConfigError, TargetError

#: A cell counts when this share of its pixels is in the region.
COVERED = 0.5


def cells_of(region: Tensor, *, grid: tuple[int, int]) -> Tensor:
    """The cells of a grid (h, w) that a region covers, bool (h, w): by half or more, or where no cell is, the
    one that it covers most.

    Args:
        region: bool (H, W); a cell's edges may lie inside of pixels, which then count for both.
        grid: Rows and columns of cells.

    Raises:
        TargetError: the region is empty or not of this kind.
    """
    if region.dtype != torch.bool or region.ndim != 2:
        raise TargetError(f"expected a bool region (H, W), got {region.dtype} {tuple(region.shape)}")
    if not bool(region.any()):
        raise TargetError("the region is empty: the concept was not found in the picture")
    shares = torch.nn.functional.adaptive_avg_pool2d(region[None].double(), grid)[0]
    cells = shares >= COVERED
    return cells if bool(cells.any()) else shares == shares.max()


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the tokens of a picture are chosen.

    Attributes:
        guidance: Classifier-free guidance g: logits become u + g (c - u), c with the prompt and u without it;
            1 for none.
        temperature: Logits are divided by it.
        top_k: Of so many likeliest tokens; None for all.
        top_p: Of the likeliest tokens that have this share of the probability together; None for all.

    Raises:
        ConfigError: a value out of its range.
    """

    guidance: float = 1.0
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not self.guidance >= 1:
            raise ConfigError(f"mllm.guidance must be at least 1 (no guidance), got {self.guidance}")
        if not self.temperature > 0:
            raise ConfigError(f"mllm.temperature must be above 0, got {self.temperature}")
        if self.top_k is not None:
            whole("mllm.top_k", self.top_k, least=1, error=ConfigError)
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigError(f"mllm.top_p must be above 0 and at most 1, got {self.top_p}")

    def __str__(self) -> str:
        cuts = {"top_k": self.top_k, "top_p": self.top_p}
        named = {"temperature": self.temperature} | {k: v for k, v in cuts.items() if v is not None}
        return "tokens, " + ", ".join(f"{name} {value:g}" for name, value in named.items())

    @property
    def guided(self) -> bool:
        """Whether the model is run without the prompt as well."""
        return self.guidance > 1

    def choose(self, logits: Tensor, noise: Tensor) -> Tensor:
        """The next token of each row, (B,): a draw from the softmax of its logits, as its noise decides.

        The token with the largest p / noise wins (an exponential race), so that rounding changes the choice
        only where two tokens all but tie, whatever the number of tokens.

        Args:
            logits: (B, K) in any precision; of guided sampling (2B, K), the second half without the prompt.
            noise: Exponential, (B, K) float32.
        """
        scores = logits.float()
        if self.guided:
            given, free = scores.chunk(2)
            scores = free + self.guidance * (given - free)
        return (self.cut(scores).log_softmax(-1) - noise.log()).argmax(-1)

    def cut(self, scores: Tensor) -> Tensor:
        """Scores (B, K) over the temperature, -inf where a token is not among those to choose from."""
        scores = scores / self.temperature
        if self.top_k is not None and self.top_k < scores.shape[-1]:
            least = scores.topk(self.top_k, dim=-1).values[:, -1:]
            scores = scores.masked_fill(scores < least, float("-inf"))
        if self.top_p is not None and self.top_p < 1:
            ordered, order = scores.sort(dim=-1, descending=True, stable=True)
            chances = ordered.softmax(-1)
            # A token stays while those before it have less than the share: the first always does.
            late = chances.cumsum(-1) - chances >= self.top_p
            scores = scores.masked_fill(torch.zeros_like(late).scatter(-1, order, late), float("-inf"))
        return scores


class Noise:
    """The noise of each sample, by its own seed: what it is does not depend on the others or the device.

    Args:
        seeds: Of each row.
        size: Numbers that a token takes.
    """

    def __init__(self, seeds: Sequence[int], *, size: int) -> None:
        self.size = size
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def next(self, device: torch.device) -> Tensor:
        """The noise of the next token, exponential (B, size) float32."""
        rows = [torch.empty(self.size).exponential_(generator=one) for one in self._generators]
        return torch.stack(rows).clamp_(min=torch.finfo(torch.float32).tiny).to(device)
