"""A delta on disk: one safetensors file that holds the columns before and after, and its manifest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nam.checks import expect
from nam.editor.columns import bits
from nam.editor.delta import Delta, EditError
from nam.types import Neuron, NeuronSet

#: Under which name the manifest stands in the file's metadata.
KEY = "nam.delta"

#: Version of the format.
SCHEMA = 1

_TENSORS = ("original", "edited", "neurons")

#: What a manifest may say, where it says it, and in which form.
_FACTS: dict[str, type] = {
    **dict.fromkeys(("source", "target", "modality", "editor", "method"), str),
    **dict.fromkeys(("steps", "pairs"), int),
    **dict.fromkeys(("skipped", "settings", "selection", "reached", "figures"), dict),
    **dict.fromkeys(("prompts", "overrides", "parts"), list),
}


def write_delta(delta: Delta, path: str | Path) -> Path:
    """Write a delta; the file takes its place only when it is whole.

    Raises:
        EditError: the manifest holds more than plain JSON values.
        StoreError: the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    from nam.store.files import StoreError, atomic

    path = Path(path)
    places = torch.tensor([[neuron.layer, neuron.unit] for neuron in delta.neurons])
    tensors = {"original": delta.original, "edited": delta.edited, "neurons": places}
    header: dict[str, Any] = {
        "schema": SCHEMA,
        "model": delta.model,
        "revision": delta.revision,
        "digests": {name: digest(tensor) for name, tensor in tensors.items()},
        "manifest": dict(delta.manifest),
    }
    try:
        text = json.dumps(header, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise EditError(f"the manifest of a delta must hold plain JSON values: {error}") from error
    try:
        with atomic(path) as temporary:
            save_file({k: v.contiguous() for k, v in tensors.items()}, temporary, metadata={KEY: text})
    except (SafetensorError, NotADirectoryError) as error:
        raise StoreError(f"cannot write {path}: {error}") from error
    return path


def read_delta(path: str | Path) -> Delta:
    """Read a delta; nothing in the file is ever executed.

    Raises:
        EditError: there is no such file, or it is no delta, truncated or damaged.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise EditError(f"there is no file {path}: set edit.apply to a delta that edit.py has saved")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            missing = [name for name in _TENSORS if name not in file.keys()]  # noqa: SIM118 - not a dict
            if KEY not in metadata or missing:
                raise EditError(f"{path} holds tensors, but it is no delta of this project")
            tensors = {name: file.get_tensor(name) for name in _TENSORS}
    except (SafetensorError, OSError) as error:
        raise EditError(f"cannot read {path}: {_what(path)} ({error})") from error
    try:
        header = json.loads(metadata[KEY])
        return _delta(header, tensors, path)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise EditError(f"{path}: its manifest is damaged ({type(error).__name__}: {error})") from error


def _delta(header: dict[str, Any], tensors: dict[str, Tensor], path: Path) -> Delta:
    if header["schema"] != SCHEMA:
        raise EditError(f"{path} has schema {header['schema']!r}, this version of nam reads {SCHEMA}")
    for name, tensor in tensors.items():
        if digest(tensor) != header["digests"][name]:
            raise EditError(f"{path} is damaged: {name} is not what its manifest says")
    if tensors["neurons"].dtype != torch.int64:
        raise TypeError(f"neurons are {tensors['neurons'].dtype}, expected torch.int64")
    manifest = header["manifest"]
    expect(dict, manifest, f"{path}: its manifest is damaged: expected facts by name", error=EditError)
    for name, kind in _FACTS.items():
        if manifest.get(name) is not None:
            expect(kind, manifest[name], f"{path}: its manifest is damaged: {name}", error=EditError)
    places = [Neuron(layer, unit) for layer, unit in tensors["neurons"].tolist()]
    return Delta(
        neurons=NeuronSet(tuple(places)),
        original=tensors["original"],
        edited=tensors["edited"],
        model=str(header["model"]),
        revision=str(header["revision"]),
        manifest=manifest,
    )


def digest(values: Tensor) -> str:
    """A hash of a tensor's type, shape and every bit."""
    found = hashlib.blake2b(f"{values.dtype} {tuple(values.shape)}".encode(), digest_size=16)
    found.update(bits(values.cpu()).numpy().tobytes())
    return found.hexdigest()


def _what(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(2)
    if start[:1] == b"\x80" or start == b"PK":
        return "it is a pickle or a torch checkpoint, which is never opened; a delta is a safetensors file"
    return "it is truncated or no safetensors file"
