"""A process that dies between any two changes of the file system loses nothing that it had finished."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from nam.store import Run, RunWriter, shards
from tests.store.results import MANIFEST, result, words


class KilledError(BaseException):
    """Stands for kill -9: nothing after it runs, no clean-up either."""


class _Fuse:
    """Lets a number of changes of the file system happen, then kills."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = 10**9
        self.used = 0
        for owner, name in ((os, "replace"), (Path, "unlink")):
            monkeypatch.setattr(owner, name, self._counting(getattr(owner, name)))

    def _counting(self, change: Any) -> Any:
        def counted(path: Any, *rest: Any, **options: Any) -> Any:
            if str(path).endswith(".tmp") and change.__name__ == "unlink":
                return change(path, *rest, **options)
            if self.left == 0:
                raise KilledError
            self.left -= 1
            self.used += 1
            return change(path, *rest, **options)

        return counted


def _work(folder: Path, indices: Sequence[int], *, resume: bool) -> list[int]:
    """What one process does until it dies or finishes; the samples whose flush came back."""
    durable: list[int] = []
    writer = RunWriter(folder, manifest=MANIFEST, words=words, top=3, resume=resume)
    try:
        for index in indices:
            writer.add(result(index))
            writer.flush()
            durable.append(index)
        writer.finish()
    except KilledError:
        if writer._lock is not None:
            os.close(writer._lock)  # the system does this for a process that is killed
    return durable


def _assert_consistent(run: Run, expected: set[int]) -> None:
    assert expected <= run.done
    assert len(run.samples) == len(run.done)
    assert len(run.neurons) == run.samples["neurons"].sum()
    assert set(run.neurons["sample"]) == {f"s{index}" for index in run.done}
    assert sum(run.scores(*key).count for key in run.keys) == 2 * len(run.done)


def test_killed_anywhere_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SPANS", (2, 4))  # joins happen early
    fuse = _Fuse(monkeypatch)
    _work(tmp_path / "whole", range(5), resume=False)
    changes = fuse.used
    assert changes > 50
    for kill in range(1, changes, 3):
        folder = tmp_path / str(kill)
        fuse.left = kill
        durable = _work(folder, range(5), resume=False)
        fuse.left = 10**9
        run = Run(folder)
        _assert_consistent(run, set(durable))
        if not run.finished:
            _work(folder, sorted(set(range(5)) - run.done), resume=True)
        _assert_consistent(Run(folder), set(range(5)))
        assert Run(folder).neurons.equals(Run(tmp_path / "whole").neurons)
