"""A delta on disk: all of it is there, and a file that is none is refused without being trusted."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from nam.editor import EditError, read_delta
from nam.editor.delta_file import KEY, digest
from nam.mllm.gill import GILL
from nam.store.files import StoreError
from tests.editor.test_delta import assert_same_bits, some, weights


def test_a_file_holds_all_of_it(gill: GILL, tmp_path: Path) -> None:
    delta = some(gill, (0, 3), (1, 7))
    read = read_delta(delta.save(tmp_path / "patch.safetensors"))
    assert read.neurons == delta.neurons
    assert torch.equal(read.original, delta.original)
    assert torch.equal(read.edited, delta.edited)
    assert (read.model, read.revision, read.manifest) == (delta.model, delta.revision, {"editor": "test"})
    with read.applied(gill):
        assert torch.equal(gill.ffn_sites[0].value_vectors[:, 3], delta.edited[0])


def test_files_that_are_no_deltas_are_refused(gill: GILL, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    whole = some(gill, (0, 1), (1, 2)).save(tmp_path / "whole.safetensors").read_bytes()
    path = tmp_path / "patch.safetensors"
    with pytest.raises(EditError, match="there is no file"):
        read_delta(path)
    path.write_bytes(pickle.dumps({"original": 1}))
    with pytest.raises(EditError, match="it is a pickle"):
        read_delta(path)
    torch.save({"original": torch.zeros(1)}, path)
    with pytest.raises(EditError, match="torch checkpoint, which is never opened"):
        read_delta(path)
    for size in (0, 5, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(EditError, match="truncated"):
            read_delta(path)
    save_file({"original": torch.zeros(1)}, path)
    with pytest.raises(EditError, match="no delta of this project"):
        read_delta(path)
    path.write_bytes(whole[:-3] + bytes(byte ^ 1 for byte in whole[-3:]))
    with pytest.raises(EditError, match="is damaged"):
        read_delta(path)


DEEP = '{"schema": 1, "digests": {}, "manifest": ' + '{"a": ' * 100_000
TAMPERED: dict[str, tuple[dict[str, Any] | str, str]] = {
    "no JSON": ("{", "manifest is damaged"),
    "nested without end": (DEEP, "manifest is damaged .RecursionError"),
    "no facts": ({"manifest": [1]}, "manifest is damaged: expected facts by name, got list"),
    "prompts": ({"manifest": {"prompts": 5}}, "manifest is damaged: prompts, got 5"),
    "source": ({"manifest": {"source": {"a": 1}}}, "manifest is damaged: source, got dict"),
    "skipped": ({"manifest": {"skipped": "x"}}, "manifest is damaged: skipped, got 'x'"),
    "digests": ({"digests": {}}, "manifest is damaged .KeyError: 'original'"),
    "schema": ({"schema": 2}, "has schema 2, this version of nam reads 1"),
    "revision": ({"revision": "0"}, "does not fit: it was made on .* with weights 0"),
}
PLACES = {
    "fractions": torch.tensor([[0, 1.5]]),
    "endless": torch.tensor([[0, float("inf")]]),
    "negative": torch.tensor([[0, -1]]),
    "three": torch.tensor([[0, 1, 2]]),
    "flat": torch.tensor([0, 1]),
}


@pytest.mark.parametrize("what", [*TAMPERED, *PLACES])
def test_a_manifest_that_was_tampered_with_is_refused(what: str, gill: GILL, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    delta = some(gill, (0, 1))
    places = PLACES.get(what, torch.tensor([[0, 1]]))
    tensors = {"original": delta.original, "edited": delta.edited, "neurons": places}
    header: dict[str, Any] = {"schema": 1, "model": "x", "revision": delta.revision, "manifest": {}}
    header["digests"] = {name: digest(tensor) for name, tensor in tensors.items()}
    given, line = TAMPERED.get(what, ({}, "manifest is damaged"))
    text = given if isinstance(given, str) else json.dumps({**header, **given})
    save_file(tensors, tmp_path / "x.safetensors", metadata={KEY: text})
    before = weights(gill)
    with pytest.raises(EditError, match=line):
        read_delta(tmp_path / "x.safetensors").apply(gill)
    assert_same_bits(gill, before)


def test_a_place_that_cannot_be_written_is_named(gill: GILL, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot write"):
        some(gill, (0, 1)).save(tmp_path / "file" / "x.safetensors")
