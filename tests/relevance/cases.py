"""What the tests of relevance providers share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nam.mllm.gill import GILL
from nam.types import Generation


def draw(model: GILL, prompt: str, **settings: object) -> Generation:
    """A picture, whatever the model would say."""
    return model.generate(prompt=prompt, draw=True, max_new_tokens=2, **settings)  # type: ignore[arg-type]


def square(top: int, left: int, *, side: int = 20) -> Tensor:
    """A square region of a picture of 64 x 64."""
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[top : top + side, left : left + side] = True
    return mask


def hidden_of(generation: Generation) -> Tensor:
    """Hidden states (1, 8, H) in float64."""
    assert generation.hidden is not None
    return generation.hidden[None].double()


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of every parameter and buffer."""
    return {key: value.clone() for key, value in model.state_dict().items()}


def hooks_of(model: nn.Module) -> int:
    """How many hooks stand on the model."""
    return sum(
        len(hooks)
        for module in model.modules()
        for hooks in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
    )
