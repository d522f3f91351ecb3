"""Linears whose weights rest in the machine's memory: what lets a model answer that a card cannot hold.

The weight stays an ordinary parameter on the CPU, so that value vectors, edits, digests and saved states see
it as they see any other. Nothing of it is left on the card between two products, nor by a forward pass that
waits for its backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class RestingLinear(nn.Linear):
    """A frozen linear that fetches its weight for each product, to where it is computed.

    Args:
        linear: Whose weight and bias it takes over: the same parameters.
        device: Where it computes, and what it is given has to be.
    """

    def __init__(self, linear: nn.Linear, *, device: torch.device) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.device = device
        self.train(linear.training)

    def fetch(self) -> Tensor:
        """A copy of the weight where it is computed; the weight itself where that is the same place."""
        return self.weight.to(self.device)

    def forward(self, rows: Tensor) -> Tensor:
        """rows (..., in) to (..., out)."""
        bias = None if self.bias is None else self.bias.to(self.device)
        if torch.is_grad_enabled() and rows.requires_grad:
            found: Tensor = _Product.apply(rows, self.weight)
            return found if bias is None else found + bias
        return functional.linear(rows, self.fetch(), bias)


class _Product(torch.autograd.Function):
    """rows @ weight.T, which keeps the weight where it rests for the backward pass and fetches it again."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return functional.linear(rows, weight.to(rows.device))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (weight,) = ctx.saved_tensors
        return gradient @ weight.to(gradient.device), None


def weight_of(linear: nn.Linear) -> Tensor:
    """A linear's weight where it is computed: the parameter itself, or a copy of one that rests elsewhere."""
    return linear.fetch() if isinstance(linear, RestingLinear) else linear.weight


def device_of(linear: nn.Linear) -> torch.device:
    """Where a linear computes."""
    return linear.device if isinstance(linear, RestingLinear) else linear.weight.device


def rest(module: nn.Module, *, device: torch.device) -> None:
    """Let the weight of every linear inside a module rest where it is, and be computed on a device.

    A class of linears other than PyTorch's own is left as it is, and has to be moved.
    """
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                setattr(parent, name, RestingLinear(child, device=device))
