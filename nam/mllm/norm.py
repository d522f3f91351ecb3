"""A norm as a linear map, once a position's scale is held: what folds the final norm into a direction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from nam.errors import ModelError
from nam.mllm.ffn import FACTOR_BETWEEN, NORMS_BETWEEN

if TYPE_CHECKING:
    from nam.mllm.base import MLLM
    from nam.mllm.ffn import FfnSite


@dataclass(frozen=True, eq=False)
class HeldNorm:
    """y = gain * centre(x) / scale(x) + bias, with scale(x) = sqrt(mean(centre(x)^2) + eps).

    Attributes:
        gain: (H,), float32 or finer.
        bias: (H,), or None.
        centred: Whether the mean is subtracted (LayerNorm) or not (RMSNorm).
        eps: What the norm adds to the variance.
    """

    gain: Tensor
    bias: Tensor | None
    centred: bool
    eps: float

    def centre(self, x: Tensor) -> Tensor:
        """x without its mean over the last axis, or x itself."""
        return x - x.mean(-1, keepdim=True) if self.centred else x

    def scale(self, stream: Tensor) -> Tensor:
        """What each position's stream (..., H) is divided by, (..., 1)."""
        return (self.centre(stream).square().mean(-1, keepdim=True) + self.eps).sqrt()

    def __call__(self, stream: Tensor) -> Tensor:
        """The norm of a stream (..., H), as its module computes it."""
        out = self.centre(stream) / self.scale(stream) * self.gain
        return out if self.bias is None else out + self.bias

    def fold(self, directions: Tensor) -> Tensor:
        """Directions (..., H) after the norm, pulled back to before it, but for the positions' scales."""
        return self.centre(directions * self.gain)

    def pull(self, directions: Tensor, stream: Tensor) -> Tensor:
        """Directions u with <u, x> + <direction, bias> = <direction, norm(x)> at each position's own x.

        Args:
            directions: After the norm, (P, H).
            stream: What enters the norm, (P, H).
        """
        return self.fold(directions) / self.scale(stream)


def read_final_norm(mllm: MLLM, *, straight: bool = True) -> HeldNorm:
    """The model's final norm.

    Args:
        mllm: The model.
        straight: Refuse models with a norm or a factor between FFN and residual stream; False for those who
            pass value vectors through it (`arriving`, `pulled_back`).

    Raises:
        ModelError: neurons do not write straight into a stream that this norm reads (post-norm models such as
            OPT-350m, norms or multipliers between FFN and residual), or its class is unknown.
    """
    _check_residual(mllm, straight=straight)
    return read_norm(cast(nn.Module, mllm.final_norm), like=mllm.unembedding)


def read_norm(module: nn.Module, *, like: Tensor) -> HeldNorm:
    """A LayerNorm, or an RMSNorm of any class.

    Args:
        module: The norm.
        like: A tensor (..., H) of the width, precision and device that the norm reads.

    Raises:
        ModelError: its class is unknown, or does something else.
    """
    dtype = torch.promote_types(like.dtype, torch.float32)
    if isinstance(module, nn.LayerNorm):
        weight = torch.ones(module.normalized_shape) if module.weight is None else module.weight
        bias = None if module.bias is None else module.bias.detach().to(like.device, dtype)
        norm = HeldNorm(weight.detach().to(like.device, dtype), bias, centred=True, eps=module.eps)
    elif "RMSNorm" in type(module).__name__:
        eps = getattr(module, "variance_epsilon", None) or getattr(module, "eps", None)
        eps = torch.finfo(like.dtype).eps if eps is None else float(eps)
        # The norm of ones is the gain over sqrt(1 + eps), whether a class stores the gain or gain - 1.
        with torch.no_grad():
            ones = torch.ones(1, like.shape[-1], device=like.device, dtype=like.dtype)
            gain = module(ones)[0].to(dtype) * (1 + eps) ** 0.5
        norm = HeldNorm(gain, None, centred=False, eps=eps)
    else:
        raise ModelError(f"the norm {type(module).__name__} is of no known class")
    _check_map(norm, module, like)
    return norm


def arriving(site: FfnSite, vectors: Tensor) -> Tensor:
    """Value vectors (n, H) as they arrive in the residual stream, but for the scale of each position.

    Where a norm stands between the two, what a neuron adds at a position is this times its activation over
    the norm's scale there, which is positive.
    """
    if site.between is not None:
        norm = read_norm(site.between, like=_written(site))
        vectors = norm.centre(vectors) * norm.gain.to(vectors)
    return vectors if site.factor == 1 else vectors * site.factor


def pulled_back(site: FfnSite, directions: Tensor, activations: Tensor) -> Tensor:
    """Directions in the residual stream, pulled back to what the value linear of a layer writes.

    With them, a <W_out[:, k], direction> is what neuron k adds along the direction in the stream, the scale
    of a norm in between held at each position's own.

    Args:
        site: The layer's FFN.
        directions: One a position, (P, H), in float32 or finer.
        activations: Of all its neurons at these positions, (P, d).
    """
    if site.between is not None:
        norm = read_norm(site.between, like=_written(site))
        bias = None if site.linear.bias is None else site.linear.bias.detach().to(activations)
        written = nn.functional.linear(activations, site.value_vectors.detach().to(activations), bias)
        directions = norm.pull(directions, written.to(directions))
    return directions if site.factor == 1 else directions * site.factor


def _written(site: FfnSite) -> Tensor:
    """Nothing (0, H) of what a layer's value linear writes."""
    return site.linear.weight.new_empty((0, site.linear.out_features), device=site.device)


def _check_residual(mllm: MLLM, *, straight: bool) -> None:
    decoder = mllm.language_model.get_decoder()
    config = mllm.language_model.config.get_text_config(decoder=True)
    if mllm.final_norm is None or getattr(config, "do_layer_norm_before", True) is False:
        raise ModelError(f"{mllm.name} is a post-norm model: no last norm reads what its neurons write")
    between = next((name for name in NORMS_BETWEEN if hasattr(decoder.layers[0], name)), None)
    if getattr(config, FACTOR_BETWEEN, None) not in (None, 1, 1.0):
        between = FACTOR_BETWEEN
    if straight and between is not None:
        raise ModelError(f"{between} stands between FFN and residual stream of {mllm.name}")


def _check_map(norm: HeldNorm, module: nn.Module, like: Tensor) -> None:
    probe = torch.linspace(-2.0, 3.0, len(norm.gain), device=like.device).sin()[None].to(like.dtype)
    with torch.no_grad():
        expected, got = module(probe).to(norm.gain.dtype), norm(probe.to(norm.gain.dtype))
    tolerance = 8 * max(torch.finfo(like.dtype).eps, torch.finfo(torch.float32).eps)
    if not (expected - got).abs().max() <= tolerance * expected.abs().max().clamp(min=1):
        raise ModelError(f"{type(module).__name__} does not compute what its name says")
