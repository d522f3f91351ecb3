"""Sums of dense scores per concept, modality and method, in safetensors, one tensor in memory at a time."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nam.store.files import StoreError, atomic, clean

if TYPE_CHECKING:
    from nam.types import Scores

#: Concept, modality, method.
Key = tuple[str, str, str]


@dataclass(frozen=True, eq=False)
class DenseSum:
    """Sums over samples.

    Attributes:
        scores: (L, d), float32 in files.
        activations: (L, d), float32 in files.
        count: Number of samples.
    """

    scores: NDArray[Any]
    activations: NDArray[Any]
    count: int

    def __add__(self, other: DenseSum) -> DenseSum:
        """The sum over the samples of both, in float64.

        Raises:
            StoreError: they belong to models of different sizes.
        """
        if self.scores.shape != other.scores.shape:
            raise StoreError(
                f"scores of one run must have one shape, got {self.scores.shape} and {other.scores.shape}"
            )
        return DenseSum(
            np.add(self.scores, other.scores, dtype=np.float64),
            np.add(self.activations, other.activations, dtype=np.float64),
            self.count + other.count,
        )


def add_scores(scores: Iterable[Scores]) -> dict[Key, DenseSum]:
    """The sums over these scores, in their order.

    Raises:
        StoreError: scores of one concept differ in shape.
    """
    sums: dict[Key, DenseSum] = {}
    for one in scores:
        key = (clean(one.concept.name), one.modality, one.method)
        values, activations = (part.detach().float().cpu().numpy() for part in (one.scores, one.activations))
        found = DenseSum(values, activations, 1)
        sums[key] = sums[key] + found if key in sums else found
    return sums


def write_sums(path: Path, sums: Mapping[Key, DenseSum]) -> None:
    """Write sums that are in memory.

    Raises:
        StoreError: they cannot be written.
    """
    _write(path, {key: one.scores.shape for key, one in sums.items()}, lambda key: sums[key])


def merge_sums(sources: Sequence[Path], target: Path) -> None:
    """Add files of sums into one; memory holds one key at a time.

    Raises:
        StoreError: a source is damaged, sources differ in shape, or the target cannot be written.
    """
    with ExitStack() as stack:
        files = [stack.enter_context(open_sums(path)) for path in sources]
        holders: dict[Key, list[Any]] = {}
        for file in files:
            for key in sum_keys(file.keys()):
                holders.setdefault(key, []).append(file)

        def added(key: Key) -> DenseSum:
            total = read_sum(holders[key][0], key)
            for file in holders[key][1:]:
                total = total + read_sum(file, key)
            return total

        shapes = {
            key: tuple(held[0].get_slice(_name(key, "scores")).get_shape()) for key, held in holders.items()
        }
        _write(target, shapes, added)


def open_sums(path: Path) -> Any:
    """An open safetensors file of sums, a context manager.

    Raises:
        StoreError: it is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="numpy")
    except (OSError, SafetensorError) as error:
        raise StoreError(f"cannot read {path}: {error}") from error


def sum_keys(names: Iterable[str]) -> list[Key]:
    """Concept, modality and method of every sum in a file, in order; a concept may contain "|"."""
    keys = set()
    for name in names:
        parts = name.rsplit("|", 3)
        if len(parts) == 4 and parts[3] == "count":
            keys.add((parts[0], parts[1], parts[2]))
    return sorted(keys)


def read_sum(file: Any, key: Key) -> DenseSum:
    """One sum of an open file.

    Raises:
        StoreError: the file does not hold it whole.
    """
    from safetensors import SafetensorError

    try:
        scores, activations, count = (file.get_tensor(_name(key, part)) for part in _PARTS)
    except SafetensorError as error:
        raise StoreError(f"scores of {'|'.join(key)} are incomplete: {error}") from error
    if scores.ndim != 2 or scores.shape != activations.shape or count.size != 1:
        raise StoreError(f"scores of {'|'.join(key)} have shapes {scores.shape} and {activations.shape}")
    return DenseSum(scores, activations, int(count.reshape(())))


_PARTS = ("scores", "activations", "count")


def _name(key: Key, part: str) -> str:
    return "|".join((*key, part))


def _write(path: Path, shapes: Mapping[Key, tuple[int, ...]], read: Callable[[Key], DenseSum]) -> None:
    """Write the safetensors format by hand, key by key: its own writer wants every tensor in memory."""
    header: dict[str, Any] = {}
    offset = 0
    keys = sorted(shapes)
    for key in keys:
        size = 4 * int(np.prod(shapes[key]))
        layout = (("scores", "F32", size), ("activations", "F32", size), ("count", "I64", 8))
        for part, dtype, length in layout:
            shape = [] if part == "count" else list(shapes[key])
            span = [offset, offset + length]
            header[_name(key, part)] = {"dtype": dtype, "shape": shape, "data_offsets": span}
            offset += length
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with atomic(path) as temporary, temporary.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for key in keys:
            one = read(key)
            file.write(np.ascontiguousarray(one.scores, dtype="<f4").tobytes())
            file.write(np.ascontiguousarray(one.activations, dtype="<f4").tobytes())
            file.write(struct.pack("<q", one.count))
