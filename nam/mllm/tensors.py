"""Precisions, files of tensors, and whether what they hold is what a model wants."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nam.errors import ConfigError, ModelError, first_line, nearest
from nam.mllm.parts import require_finite

#: Precisions that a config can ask for.
DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def dtype_named(dtype: str) -> torch.dtype:
    """The precision that a config asks for.

    Raises:
        ConfigError: it is unknown.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"mllm.dtype={dtype!r} is unknown ({nearest(str(dtype), DTYPES)})")
    return DTYPES[dtype]


def read_torch_file(path: Path, *, mapped: bool = False) -> Any:
    """What torch saved in a file, on the CPU; nothing but tensors and plain values is read (`weights_only`).

    Args:
        path: The file.
        mapped: Read tensors from the disk when they are used, not before.

    Raises:
        ModelError: the file is missing, damaged, or holds something else.
    """
    require_file(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise ModelError(f"cannot read {path}: {first_line(error)}") from error


def require_file(path: Path) -> None:
    """Check that a weights file is there.

    Raises:
        ModelError: it is not.
    """
    if not path.is_file():
        raise ModelError(f"missing weights: there is no file {path}")


def require_tensors(given: Mapping[str, Tensor], expected: Mapping[str, torch.Size], *, whose: str) -> None:
    """Check that the tensors of a file are all that a model wants, of its shapes, and finite.

    Args:
        given: Those of the file, by name.
        expected: Shapes of those that the model wants.
        whose: Begins the errors, such as "GILL's weights".

    Raises:
        ModelError: a tensor is missing, unknown, of another shape, or holds NaN or infinity.
    """
    missing, unknown = expected.keys() - given.keys(), given.keys() - expected.keys()
    for problem, keys in (("lack", missing), ("have unknown", unknown)):
        if keys:
            names = ", ".join(sorted(keys)[:3])
            raise ModelError(f"{whose} {problem} {names} ({len(keys)} tensors)")
    for key, shape in expected.items():
        if given[key].shape != shape:
            shapes = f"{tuple(shape)} by the model's config, got {tuple(given[key].shape)}"
            raise ModelError(f"{whose}: {key} should be {shapes}")
    require_finite(given)
