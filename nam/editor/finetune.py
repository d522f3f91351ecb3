"""Fine-tuning the chosen value vectors alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from nam.editor.base import NO_TOKEN, Case, Problem, Trained
from nam.editor.reach import hidden_of
from nam.mllm.base import MLLM
from nam.mllm.drawer import drawer_of


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
    larger: ClassVar[str] = "raise editor.lr or editor.steps, or lower editor.norm"
    smaller: ClassVar[str] = "lower editor.lr"

    steps: int = 100
    lr: float = 0.05
    text: float = 1.0
    image: float = 1.0
    keep: float = 4.0
    norm: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        self._refuse_odd("text", "image", "keep", "norm")

    def enough(self, reached: dict[str, float]) -> bool:
        """As every editor; of the picture it is the generator's conditioning that has to come close."""
        seen = {name: value for name, value in reached.items() if name != "image_left"}
        return super().enough(
            {**seen, "image_left": reached.get("drawn_left", reached.get("image_left", 0.0))}
        )

    def losses(
        self, problem: Problem, cases: Sequence[Case], hidden: Sequence[Tensor], change: Tensor
    ) -> dict[str, Tensor]:
        mllm, drawer = problem.mllm, drawer_of(problem.mllm)
        states = torch.cat(list(hidden))
        with torch.no_grad():
            wanted = hidden_of(mllm, torch.cat([case.wanted for case in cases]))
        roles = [role for case in cases for role in case.roles]
        tokens = torch.tensor([token for case in cases for token in case.tokens], device=states.device)
        said, drawn, kept = (
            torch.tensor([r == role for r in roles], device=states.device)
            for role in ("text", "image", "keep")
        )
        found: dict[str, Tensor] = {}
        if bool(said.any()):
            found["text"] = F.cross_entropy(_logits(mllm, states[said]), tokens[said])
        if bool(drawn.any()):
            found["image"] = _relative(states[drawn], wanted[drawn])
            if drawer is not None:
                # The [IMG] positions of an answer, as many in each.
                shape = (-1, next(len(case.rows("image")) for case in cases if case.rows("image")))
                with torch.no_grad():
                    aim = drawer.conditioning(wanted[drawn].unflatten(0, shape))
                given = drawer.conditioning(states[drawn].unflatten(0, shape))
                found["image"] = (found["image"] + _relative(given, aim)) / 2
        if bool(kept.any()):
            found["keep"] = self._kept(mllm, states[kept], wanted[kept], words=tokens[kept] != NO_TOKEN)
        found["norm"] = change.square().sum()
        weights = {"text": self.text, "image": self.image, "keep": self.keep, "norm": self.norm}
        total = torch.stack([weights[name] * value for name, value in found.items()]).sum()
        return {"loss": total, **found}

    @staticmethod
    def _kept(mllm: MLLM, states: Tensor, wanted: Tensor, *, words: Tensor) -> Tensor:
        """Half the hidden states' change, half the words' KL."""
        before, after = (_logits(mllm, each[words]).log_softmax(-1) for each in (wanted, states))
        apart = F.kl_div(after, before, log_target=True, reduction="sum") / max(1, int(words.sum()))
        return (_relative(states, wanted) + apart) / 2


def _logits(mllm: MLLM, states: Tensor) -> Tensor:
    return (states @ mllm.unembedding.T).float()


def _relative(found: Tensor, wanted: Tensor) -> Tensor:
    return (found.float() - wanted.float()).square().mean() / wanted.float().square().mean()
