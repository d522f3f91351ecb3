"""Runs that are finished, shared by processes, interrupted, resumed, or cannot be written."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pandas.testing import assert_frame_equal

from nam.store import Run, RunWriter, StoreError, files
from nam.store.schema import NEURONS, SAMPLES
from nam.store.shards import SPANS, list_shards
from tests.store.results import MANIFEST, UNITS, result, words


def _write(folder: Path, indices: Sequence[int], *, rank: int = 0, batch: int = 2, **options: Any) -> None:
    with RunWriter(folder, manifest=MANIFEST, rank=rank, words=words, top=10, **options) as writer:
        for number, index in enumerate(indices):
            writer.add(result(index, empty_mask=index == 5))
            if number % batch == batch - 1:
                writer.flush()


def _finish(folder: Path, **options: Any) -> Run:
    with RunWriter(folder, manifest=MANIFEST, resume=True) as writer:
        writer.finish(**options)
    return Run(folder)


def _finished(folder: Path, indices: Sequence[int], **options: Any) -> Run:
    _write(folder, indices, **options)
    return _finish(folder)


def _assert_same(one: Run, other: Run) -> None:
    assert_frame_equal(one.samples, other.samples)
    assert_frame_equal(one.neurons, other.neurons)
    assert one.keys == other.keys
    for key in one.keys:
        mine, theirs = one.scores(*key), other.scores(*key)
        assert mine.count == theirs.count
        np.testing.assert_allclose(mine.scores, theirs.scores, rtol=1e-6)
        np.testing.assert_allclose(mine.activations, theirs.activations, rtol=1e-6)


def test_a_finished_run_is_readable_with_pandas_alone(tmp_path: Path) -> None:
    run = _finished(tmp_path, range(7))
    samples = pd.read_parquet(tmp_path / "samples.parquet")
    neurons = pd.read_parquet(tmp_path / "neurons.parquet")
    assert list(samples) == SAMPLES.names
    assert list(neurons) == NEURONS.names
    assert samples["id"].tolist() == [f"s{index}" for index in range(7)]
    assert samples["status"].tolist() == ["ok"] * 5 + ["error", "ok"]
    assert samples["error"][5] == "image: no fish in the picture"
    assert samples.loc[5, ["text_status", "image_status", "neurons"]].tolist() == ["ok", "error", 10]
    assert (samples["neurons"].sum(), len(neurons)) == (130, 130)
    np.testing.assert_allclose(samples["relevance"][3], result(3).relevance, rtol=1e-6)
    first = neurons[(neurons["sample"] == "s3") & (neurons["modality"] == "image")]
    assert first["rank"].tolist() == list(range(1, 11))
    image = result(3).scores[1]
    flat = image.scores.flatten().sort(descending=True)
    assert (first["layer"] * UNITS + first["unit"]).tolist() == flat.indices[:10].tolist()
    np.testing.assert_array_equal(first["score"], flat.values[:10])
    np.testing.assert_array_equal(first["activation"], image.activations.flatten()[flat.indices[:10]])
    assert first["words"].tolist() == [f"horse, unit{unit}" for unit in first["unit"]]
    assert run.finished
    assert not (tmp_path / "shards").exists()
    assert json.loads((tmp_path / "manifest.json").read_text())["schema_version"] == 2


def test_mean_scores_are_the_mean_over_the_samples(tmp_path: Path) -> None:
    run = _finished(tmp_path, range(9))
    found = run.scores("fish", "image", "nam")
    each = [result(index).scores[1] for index in (2, 8)]  # 5 had no mask
    assert found.count == 2
    np.testing.assert_allclose(found.scores, torch.stack([one.scores for one in each]).mean(0), rtol=1e-6)
    with pytest.raises(StoreError, match=r"did you mean 'fish\|image\|nam'"):
        run.scores("fish", "image", "nan")


def test_pictures_and_masks_come_back(tmp_path: Path) -> None:
    from PIL import Image

    run = _finished(tmp_path, [3])
    row, made = run.samples.iloc[0], result(3)
    assert made.picture is not None
    with Image.open(run.image(row["picture"])) as picture, Image.open(run.image(row["mask"])) as mask:
        assert np.array_equal(picture, made.picture)
        assert np.array_equal(np.asarray(mask) > 127, made.mask)
    with pytest.raises(StoreError, match="leads out of the run folder"):
        run.image("../secret.png")


@pytest.mark.parametrize("batch", [1, 3])
def test_two_processes_write_what_one_writes(tmp_path: Path, batch: int) -> None:
    one = _finished(tmp_path / "one", range(11))
    for rank in (0, 1):
        _write(tmp_path / "two", range(rank, 11, 2), rank=rank, batch=batch)
    _assert_same(one, Run(tmp_path / "two"))  # from shards
    _assert_same(one, _finish(tmp_path / "two"))  # merged


def test_joined_shards_hold_the_same(tmp_path: Path) -> None:
    count = SPANS[0] + 5
    _write(tmp_path / "many", range(count), batch=1)
    assert len(list_shards(tmp_path / "many", "samples")) == 6
    assert len(list_shards(tmp_path / "many", "neurons")) == 6
    assert len(list_shards(tmp_path / "many", "scores")) == 6
    few = _finished(tmp_path / "few", range(count), batch=count)
    _assert_same(few, Run(tmp_path / "many"))
    _assert_same(few, _finish(tmp_path / "many"))


def test_an_interrupted_run_is_readable_and_goes_on_with_other_processes(tmp_path: Path) -> None:
    whole = _finished(tmp_path / "whole", range(12))
    folder = tmp_path / "killed"
    for rank in (0, 1, 2):
        _write(folder, range(rank, 8, 3), rank=rank, batch=1)
    # A flush that was killed before its commit, and a temporary file that was left behind.
    for path in (folder / "shards").glob("samples-00002-0000001-*"):
        path.rename(folder / "shards" / ".samples.tmp")
    run = Run(folder)
    assert not run.finished
    assert run.done == set(range(8)) - {5}
    assert set(run.neurons["sample"]) == {f"s{index}" for index in run.done}
    _write(folder, [5, *range(8, 12)], resume=True)
    _assert_same(whole, _finish(folder))


def test_kill_keeps_what_was_flushed(tmp_path: Path) -> None:
    code = (
        "import os, signal\n"
        "from nam.store import RunWriter\n"
        "from tests.store.results import *\n"
        f"writer = RunWriter({str(tmp_path)!r}, manifest=MANIFEST, words=words)\n"
        "writer.add(result(0)); writer.flush(); writer.add(result(1))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    killed = Run(tmp_path)
    assert killed.samples["id"].tolist() == ["s0"]
    _write(tmp_path, [1], resume=True)
    run = _finish(tmp_path)
    assert run.done == {0, 1}
    assert run.manifest["started"] == killed.manifest["started"]
    assert len(run.manifest["resumed"]) == 2


def test_ctrl_c_keeps_what_was_added(tmp_path: Path) -> None:
    def interrupted() -> None:
        with RunWriter(tmp_path, manifest=MANIFEST, words=words) as writer:
            writer.add(result(0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert Run(tmp_path).done == {0}


def test_an_interrupted_merge_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _finished(tmp_path / "whole", range(6))
    folder = tmp_path / "run"
    _write(folder, range(4))
    with monkeypatch.context() as patch:
        patch.setattr("nam.store.writer.write_json", _full_disk_at("metrics.json"))
        with pytest.raises(StoreError, match="metrics"):
            _finish(folder)
    assert (folder / "samples.parquet").exists()
    assert Run(folder).done == set(range(4))
    _write(folder, [4, 5], resume=True)
    _assert_same(whole, _finish(folder))


def _full_disk_at(name: str) -> Any:
    def write(path: Path, content: Any) -> None:
        if path.name == name:
            raise StoreError(f"the disk is full: cannot write {path}")
        files.write_json(path, content)

    return write


def test_two_runs_into_one_folder(tmp_path: Path) -> None:
    with (
        RunWriter(tmp_path, manifest=MANIFEST),
        pytest.raises(StoreError, match=r"another run is writing into .* set run_dir"),
    ):
        RunWriter(tmp_path, manifest=MANIFEST, resume=True)
    with pytest.raises(StoreError, match=r"holds a run already: set run_dir .* resume="):
        RunWriter(tmp_path, manifest=MANIFEST)
    _finish(tmp_path)
    with pytest.raises(StoreError, match="holds a finished run: set run_dir"):
        RunWriter(tmp_path, manifest=MANIFEST)
    with pytest.raises(StoreError, match="finished: there is nothing to resume"):
        RunWriter(tmp_path, manifest=MANIFEST, resume=True)
    assert not (tmp_path / "shards").exists()


def test_processes_do_not_get_in_each_others_way(tmp_path: Path) -> None:
    with (
        RunWriter(tmp_path, manifest=MANIFEST, words=words, rank=0) as first,
        RunWriter(tmp_path, manifest=MANIFEST, words=words, rank=1) as second,
    ):
        first.add(result(0))
        second.add(result(1))
        second.flush()
        with pytest.raises(StoreError, match="process 0 finishes"):
            second.finish()
        first.finish(metrics={"samples": 2}, seconds=3.0)
    run = Run(tmp_path)
    assert (run.metrics, run.manifest["seconds"], run.done) == ({"samples": 2}, 3.0, {0, 1})
