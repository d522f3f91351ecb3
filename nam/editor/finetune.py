"""Fine-tuning the chosen value vectors alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from nam.editor.base import NO_TOKEN, Case, Problem, Trained
from nam.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Finetune(Trained):
    """Adam on the change of the chosen value vectors; nothing else asks for a gradient.

    loss = text * (likelihood of the words) + image * (match of the picture generator's conditioning, and of
    the hidden states behind it) + keep * (KL of the words and match of the hidden states that must stay)
    + norm * |change|^2. Matches are squared errors over the mean square of what is wanted.

    Attributes:
        text, image, keep, norm: Weights.
    """

    name: ClassVar[str] = "finetune"

    steps: int = 150
    tolerance: float = 0.05
    text: float = 1.0
    image: float = 1.0
    keep: float = 4.0
    norm: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("text", "image", "keep", "norm"):
            if getattr(self, key) < 0:
                raise ConfigError(f"editor.{key} must be at least 0, got {getattr(self, key)}")

    def losses(
        self, problem: Problem, cases: Sequence[Case], hidden: Sequence[Tensor], change: Tensor
    ) -> dict[str, Tensor]:
        mllm: Any = problem.mllm
        parts: dict[str, list[Tensor]] = {"text": [], "image": [], "keep": []}
        for case, states in zip(cases, hidden, strict=True):
            with torch.no_grad():
                wanted = hidden_of(mllm, case.wanted)
            said, drawn, kept = (case.rows(role) for role in ("text", "image", "keep"))
            if said:
                tokens = torch.tensor([case.tokens[row] for row in said], device=states.device)
                parts["text"].append(F.cross_entropy(_logits(mllm, states[said]), tokens))
            if drawn:
                parts["image"].append(_relative(states[drawn], wanted[drawn]))
                if hasattr(mllm, "conditioning"):
                    with torch.no_grad():
                        aim = mllm.conditioning(wanted[drawn][None])
                    parts["image"].append(_relative(mllm.conditioning(states[drawn][None]), aim))
            if kept:
                parts["keep"].append(_relative(states[kept], wanted[kept]))
                words = [row for row in kept if case.tokens[row] != NO_TOKEN]
                before, after = (_logits(mllm, each[words]).log_softmax(-1) for each in (wanted, states))
                parts["keep"].append(
                    F.kl_div(after, before, log_target=True, reduction="sum") / max(1, len(words))
                )
        found = {name: torch.stack(terms).mean() for name, terms in parts.items() if terms}
        found["norm"] = change.square().sum()
        weights = {"text": self.text, "image": self.image, "keep": self.keep, "norm": self.norm}
        total = torch.stack([weights[name] * value for name, value in found.items()]).sum()
        return {"loss": total, **found}


def hidden_of(mllm: Any, stream: Tensor) -> Tensor:
    """Last hidden states (P, H) of what enters the final norm."""
    states = stream.to(mllm.device, mllm.dtype)
    normed: Tensor = states if mllm.final_norm is None else mllm.final_norm(states)
    return normed


def _logits(mllm: Any, states: Tensor) -> Tensor:
    return (states @ mllm.unembedding.T).float()


def _relative(found: Tensor, wanted: Tensor) -> Tensor:
    return (found.float() - wanted.float()).square().mean() / wanted.float().square().mean()
