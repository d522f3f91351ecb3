"""Products of float32 matrices on the CPU by oneDNN, which PyTorch brings along beside its BLAS.

Some CPUs run one far faster than the other: a core of AMD's Zen 5 computes 220 GFLOPS by oneDNN, and 93 by
the MKL of PyTorch's own build, which uses no AVX-512 there. Where both know the CPU they are alike.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


def linear(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """rows (..., n) @ weight.T + bias, as `torch.nn.functional.linear`, for a weight (m, n) and a bias
    (m,) of any strides.

    By oneDNN for float32 on an x86 CPU, the gradient by the rows too; where one by the weight is wanted and
    anywhere else by PyTorch's choice.
    """
    given = [one for one in (rows, weight, bias) if one is not None]
    plain = all(one.device.type == "cpu" and one.dtype == torch.float32 for one in given)
    trained = torch.is_grad_enabled() and any(one.requires_grad for one in given[1:])
    if not plain or trained or not rows.numel() or not _has_onednn():
        return functional.linear(rows, weight, bias)
    found: Tensor = _Linear.apply(rows, weight, bias)
    return found


class _Linear(torch.autograd.Function):
    """A linear whose weight is frozen."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        bias = None if bias is None else bias.contiguous()  # its strides are not looked at
        found: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return linear(gradients[0], weight.T), None, None


class Linears(TorchFunctionMode):
    """A context manager in which every linear of any module is computed by `linear`."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        # A mode is left while it handles a call, so that what `linear` calls does not come back here.
        return (linear if func is functional.linear else func)(*args, **(kwargs or {}))


@cache
def _has_onednn() -> bool:
    by_name = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    vectors = torch.backends.cpu.get_cpu_capability().startswith("AVX")
    return by_name is not None and vectors and torch.backends.mkldnn.is_available()
