"""Which weights a result belongs to."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from nam.mllm.base import MLLM

_VALUES = 4096


def fingerprint(mllm: MLLM) -> str:
    """A short name for a model's weights: the digest of its language model."""
    return digest_of(mllm.language_model)


def digest_of(module: nn.Module) -> str:
    """A hash over values of every parameter of a module.

    Any training changes it; a change of single values can go unseen. The precision counts.
    """
    found = hashlib.blake2b(digest_size=8)
    for name, weight in sorted(module.named_parameters()):
        flat = weight.detach().reshape(-1)
        step = max(1, flat.numel() // _VALUES)
        values = flat[::step].to("cpu", torch.float32)
        found.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        found.update(values.numpy().tobytes())
    return found.hexdigest()
