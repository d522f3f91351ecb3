"""Which weights a result belongs to."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nam.mllm.base import MLLM
from nam.mllm.parts import LazyParts

_VALUES = 4096

#: Files up to so many bytes are read whole; of larger ones so many pieces of so many bytes.
_WHOLE, _PIECES, _PIECE = 2**24, 4096, 256


def fingerprint(mllm: MLLM) -> str:
    """A short name for a model's neurons: the digest of its language model."""
    return digest_of(mllm.language_model)


def part_digests(mllm: MLLM) -> dict[str, str]:
    """A digest of all else that decides a model's answers and pictures, by name.

    Parts that are read when they are first used are not read for it: their files are looked at, and of a part
    that is on the hub the place is taken.
    """
    found: dict[str, str] = {}
    lazy = {name: module for name, module in mllm.named_modules() if isinstance(module, LazyParts)}
    for name, child in mllm.named_children():
        if child is not mllm.language_model:
            weights = {f"{name}.{key}": weight for key, weight in child.named_parameters()}
            own = {key: w for key, w in weights.items() if not key.startswith(tuple(f"{n}." for n in lazy))}
            if own:
                found[name] = _digest(own.items())
    for name, parts in lazy.items():
        for part in sorted({*parts.names, *parts.origins}):
            origin = parts.origins.get(part)
            found[f"{name}.{part}"] = (
                digest_of(parts.get(part, like=mllm.unembedding)) if origin is None else digest_at(origin)
            )
    config = getattr(mllm, "config", None)
    if dataclasses.is_dataclass(config):
        found["config"] = hashlib.blake2b(repr(config).encode(), digest_size=8).hexdigest()
    return found


def digest_of(module: nn.Module) -> str:
    """A hash over values of every parameter of a module.

    Any training changes it; a change of single values can go unseen. The precision counts.
    """
    return _digest(module.named_parameters())


def digest_at(origin: Path | str) -> str:
    """A hash over the files of a part, from pieces of the large ones; of a part on the hub, its place."""
    if isinstance(origin, str):
        return origin
    found = hashlib.blake2b(digest_size=8)
    for path in [origin] if origin.is_file() else sorted(origin.rglob("*")):
        name = path.relative_to(origin)
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            found.update(f"{name} {path.stat().st_size}".encode())
            found.update(_pieces(path))
    return found.hexdigest()


def _pieces(path: Path) -> bytes:
    if path.stat().st_size <= _WHOLE:
        return path.read_bytes()
    data = np.memmap(path, dtype=np.uint8, mode="r")
    starts = np.linspace(0, len(data) - _PIECE, _PIECES).astype(np.int64)
    return b"".join(data[start : start + _PIECE].tobytes() for start in starts)


def _digest(weights: Iterable[tuple[str, Tensor]]) -> str:
    found = hashlib.blake2b(digest_size=8)
    for name, weight in sorted(weights, key=_first):
        flat = weight.detach().reshape(-1)
        step = max(1, flat.numel() // _VALUES)
        values = flat[::step].to("cpu", torch.float32)
        found.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        found.update(values.numpy().tobytes())
    return found.hexdigest()


def _first(pair: tuple[str, Any]) -> str:
    return pair[0]
