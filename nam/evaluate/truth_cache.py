"""Effects of neurons, kept on disk: what was measured once is not measured again, after a kill either."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nam.evaluate.faithfulness import Effects, Probe, effects_of
from nam.mllm.fingerprint import fingerprint, part_digests
from nam.store.files import StoreError, atomic, make_folder
from nam.types import Generation, Neuron, NeuronSet

if TYPE_CHECKING:
    from nam.mllm.base import MLLM
    from nam.reduction.base import Context


@dataclass(frozen=True, kw_only=True)
class TruthCache:
    """A folder of effects, one file (.npz) for each model, answer, target and probe.

    Attributes:
        folder: Where.
        model: Which weights, as `weights_key` gives it.
        chunk: Neurons between two writes.
    """

    folder: Path
    model: str
    chunk: int = 512

    def effects(self, context: Context, probe: Probe, neurons: NeuronSet | None = None) -> Effects:
        """All effects that are known of a target, those of `neurons` (None for all) among them.

        Args:
            context, probe, neurons: As in `effects_of`.

        Raises:
            StoreError: the folder cannot be written, or a file in it cannot be read.
        """
        path = make_folder(self.folder) / f"{self.key(context, probe)}.npz"
        layers, _, width = context.activations.shape
        known = _read(path, probe.names, (layers, width))
        wanted = _mask(neurons, (layers, width))
        missing = np.argwhere(wanted & np.isnan(known[probe.names[0]]))
        for start in range(0, len(missing), self.chunk):
            some = missing[start : start + self.chunk].tolist()
            found = effects_of(context, probe, NeuronSet(tuple(Neuron(*place) for place in some)))
            for name, values in found.items():
                known[name] = np.where(np.isnan(values), known[name], values)
            with atomic(path) as temporary, temporary.open("wb") as file:
                np.savez(file, **known)  # type: ignore[arg-type]
        return known

    def key(self, context: Context, probe: Probe) -> str:
        """The name of a target's file: the probe's, then a hash of what its effects depend on."""
        target = context.target
        parts = [
            self.model,
            *_answer(context.generation),
            target.modality,
            target.positions,
            target.token_ids,
            probe.names,
            probe.settings,
        ]
        digest = hashlib.blake2b(repr(parts).encode(), digest_size=12).hexdigest()
        return f"{type(probe).__name__}-{digest}"


def weights_key(mllm: MLLM) -> str:
    """A short name for all that decides a model's answers, the parts that see and draw among it."""
    digests = (fingerprint(mllm), sorted(part_digests(mllm).items()))
    return hashlib.blake2b(repr(digests).encode(), digest_size=8).hexdigest()


def _answer(generation: Generation) -> tuple[object, ...]:
    """What the answer was, and how its picture is drawn; not the picture itself, whose last digits may depend
    on what was drawn beside it."""
    pixels = generation.input_pixels
    seen = None if pixels is None else hashlib.blake2b(pixels.contiguous().numpy().tobytes()).hexdigest()
    return (generation.token_ids, generation.seed, generation.drawn, seen)


def _mask(neurons: NeuronSet | None, shape: tuple[int, int]) -> NDArray[np.bool_]:
    if neurons is None:
        return np.ones(shape, bool)
    mask = np.zeros(shape, bool)
    for neuron in neurons:
        mask[neuron.layer, neuron.unit] = True
    return mask


def _read(path: Path, names: tuple[str, ...], shape: tuple[int, int]) -> Effects:
    if not path.is_file():
        return {name: np.full(shape, np.nan, np.float32) for name in names}
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in names}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise StoreError(f"cannot read {path}: {error}; delete it to measure again") from error
    return found
