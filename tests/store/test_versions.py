"""Runs of an earlier version are read, joined and gone on with; other versions, and damage, are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from nam.store import Run, RunWriter, StoreError
from nam.store.joining import join_runs
from nam.store.schema import ADDED
from tests.store.results import MANIFEST, result, words


def write(folder: Path, indices: range, *, finish: bool, resume: bool = False) -> Path:
    with RunWriter(folder, manifest=MANIFEST, words=words, top=5, resume=resume) as writer:
        for index in indices:
            writer.add(result(index))
            writer.flush()
        if finish:
            writer.finish()
    return folder


def change(folder: Path, **entries: Any) -> Path:
    """Replace entries of the manifest."""
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))
    return folder


def age(folder: Path) -> Path:
    """Make a run one of version 1, whose tables of samples had fewer columns."""
    for path in [*folder.glob("samples.parquet"), *folder.glob("shards/samples-*")]:
        pq.write_table(pq.read_table(path).drop_columns(list(ADDED)), path)
    return change(folder, schema_version=1)


@pytest.mark.parametrize("finish", [True, False])
def test_a_run_of_the_first_version_is_joined_with_one_of_today(finish: bool, tmp_path: Path) -> None:
    old = age(write(tmp_path / "old", range(3), finish=finish))
    new = write(tmp_path / "new", range(2), finish=True)
    assert join_runs([old, new], tmp_path / "joined").samples == (3, 2)
    found = pd.read_parquet(tmp_path / "joined/samples.parquet")
    assert found["id"].tolist() == ["s0", "s1", "s2", "s0", "s1"]
    assert found.loc[found["run"] == "old", list(ADDED)].isna().all(axis=None)
    neurons = pd.read_parquet(tmp_path / "joined/neurons.parquet")
    assert len(neurons) == 5 * 2 * (3 + 2)


def test_an_interrupted_run_of_the_first_version_goes_on(tmp_path: Path) -> None:
    whole = Run(write(tmp_path / "whole", range(40), finish=True))
    write(age(write(tmp_path / "old", range(3), finish=False)), range(3, 40), finish=True, resume=True)
    run = Run(tmp_path / "old")
    assert run.manifest["schema_version"] == MANIFEST["schema_version"]
    same = [name for name in run.samples if name not in ADDED]
    pd.testing.assert_frame_equal(run.samples[same], whole.samples[same])
    pd.testing.assert_frame_equal(run.neurons, whole.neurons)


@pytest.mark.parametrize("version", [3, 0, -1, True, None, "2", [2]])
def test_another_version_is_refused_by_name(version: Any, tmp_path: Path) -> None:
    folder = change(write(tmp_path, range(1), finish=False), schema_version=version)
    with pytest.raises(StoreError, match=r"has schema .*, this version of nam reads 1 to 2"):
        Run(folder)
    with pytest.raises(StoreError, match="this version of nam reads 1 to 2"):
        RunWriter(folder, manifest=MANIFEST, resume=True)


@pytest.mark.parametrize(
    ("entries", "line"),
    [
        ({"model": 3}, "'model' should hold"),
        ({"model": {"parts": ["unet"]}}, "'model' should hold"),
        ({"resumed": "yesterday"}, "'resumed' should be a list"),
    ],
)
def test_a_manifest_that_was_tampered_with_is_one_line(
    entries: dict[str, Any], line: str, tmp_path: Path
) -> None:
    folder = change(write(tmp_path / "run", range(1), finish=False), **entries)
    for use in (
        lambda: Run(folder),
        lambda: join_runs([folder, folder], tmp_path / "joined"),
        lambda: RunWriter(folder, manifest=MANIFEST, resume=True),
    ):
        with pytest.raises(StoreError, match=line):
            use()


def test_a_row_without_its_place_is_damage(tmp_path: Path) -> None:
    path = write(tmp_path, range(2), finish=False) / "shards/samples-00000-0000001-0000001.parquet"
    table = pd.read_parquet(path).assign(index=pd.array([None], dtype="Int64"))
    table.to_parquet(path)
    with pytest.raises(StoreError, match="a row without index"):
        _ = Run(tmp_path).done
    writer = RunWriter(tmp_path, manifest=MANIFEST, resume=True)
    with pytest.raises(StoreError, match="a row without index"):
        writer.finish()
    writer.close()
