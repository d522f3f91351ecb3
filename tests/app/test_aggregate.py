"""`aggregate=RUNS`: one table of several runs, in little memory; and how large tables may become."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as pads
import pytest

from nam.app.attribute import main
from nam.store import Run, RunWriter, StoreError, run_manifest
from nam.store.joining import find_runs, join_runs
from nam.store.schema import NEURON_SHARDS
from nam.store.shards import write_table
from tests.runs import run_command
from tests.store.results import LAYERS, MANIFEST, UNITS, result, words


def write_run(
    folder: Path, indices: Sequence[int], *, seed: int = 0, revision: str = "aa", finish: bool = True
) -> Path:
    """A run of made-up results."""
    manifest = run_manifest(
        model="made up", revision=revision, seed=seed, layers=LAYERS, units=UNITS,
        settings={"methods": ["nam"], "overrides": [f"seed={seed}"]},
    )  # fmt: skip
    with RunWriter(folder, manifest=manifest, words=words, top=5) as writer:
        for index in indices:
            writer.add(result(index, empty_mask=index % 4 == 3))
            writer.flush()
        if finish:
            writer.finish()
    return folder


@pytest.fixture
def aggregate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Run the command; gives the folder of the joined tables."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NAM_RUN_STAMP", "now")

    def run(runs: str, *overrides: str) -> Path:
        run_command(main, f"aggregate={runs}", "run_dir=joined", *overrides)
        return Path("joined")

    return run


@pytest.mark.parametrize("named", ["sweep/*", "[sweep/0,sweep/1]", "sweep/**"])
def test_runs_become_one_table(
    named: str, aggregate: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [write_run(tmp_path / "sweep/0", range(5)), write_run(tmp_path / "sweep/1", [2, 0, 3], seed=7)]
    (tmp_path / "sweep/notes").mkdir()
    joined = aggregate(named)
    for kind in ("samples", "neurons"):
        parts = [pd.read_parquet(run / f"{kind}.parquet") for run in runs]
        expected = pd.concat([p.assign(run=name) for p, name in zip(parts, "01", strict=True)])
        found = pd.read_parquet(joined / f"{kind}.parquet")
        assert list(found.columns) == ["run", *parts[0].columns]
        pd.testing.assert_frame_equal(found[expected.columns], expected.reset_index(drop=True))
    table = pd.read_parquet(joined / "runs.parquet")
    assert table["run"].tolist() == ["0", "1"]
    assert table["seed"].tolist() == [0, 7]
    assert table["samples"].tolist() == [5, 3]
    assert table["errors"].tolist() == [1, 1]
    assert table["neurons"].tolist() == [45, 25]  # 5 of each modality, where there is one
    assert table["overrides"][1].tolist() == ["seed=7"]
    printed = capsys.readouterr().out
    assert "joined/neurons.parquet" in printed
    assert "not finished" not in printed


def test_what_an_interrupted_run_has_finished_is_joined(
    aggregate: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "a", range(3))
    broken = write_run(tmp_path / "b", [2, 0, 3], finish=False)
    joined = aggregate("[a,b]")
    found = pd.read_parquet(joined / "neurons.parquet")
    mine = found[found["run"] == "b"].drop(columns="run").reset_index(drop=True)
    pd.testing.assert_frame_equal(mine, Run(broken).neurons)
    assert mine["sample"].drop_duplicates().tolist() == ["s0", "s2", "s3"]
    assert "not finished" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("[a,other]", "the runs are of different models: "),
        ("nowhere/*", "aggregate=nowhere/*: no folder of this pattern holds a run"),
        ("[a,nowhere]", "nowhere holds no run"),
        ("[]", "aggregate names no run"),
        ("[a,damaged]", "cannot read"),
        ("3", "expected a list: aggregate=[3]"),
    ],
)
def test_what_cannot_be_joined_is_one_line(
    given: str, line: str, aggregate: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "a", [0])
    write_run(tmp_path / "other", [0], revision="bb")
    (write_run(tmp_path / "damaged", [0]) / "neurons.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(SystemExit) as stop:
        aggregate(given)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1
    assert not Path("joined/neurons.parquet").exists()
    if "different models" in line:
        assert "fingerprint aa" in error
        assert "fingerprint bb" in error
        assert not Path("joined").exists()


def test_runs_are_not_joined_into_one_of_them(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "a", [0]), write_run(tmp_path / "b", [1])]
    before = (runs[0] / "neurons.parquet").read_bytes()
    with pytest.raises(StoreError, match="is one of the runs to join"):
        join_runs(find_runs([str(run) for run in runs]), runs[0])
    assert (runs[0] / "neurons.parquet").read_bytes() == before
    with pytest.raises(StoreError, match="is one of the runs to join"):
        join_runs(runs, tmp_path / "b" / ".." / "a")


def large_run(folder: Path, *, samples: int, top: int = 1000) -> Path:
    """A finished run of `samples` times `top` rows, written as a run writes them, 20 samples at once."""
    rng = np.random.default_rng(0)
    for flush in range(samples // 20):
        index = np.repeat(np.arange(20 * flush, 20 * flush + 20), top)
        size = len(index)
        columns = {
            "index": index,
            "sample": [f"s{one}" for one in index],
            "concept": [f"thing{one % 9}" for one in index],
            "modality": ["text"] * size,
            "method": ["nam"] * size,
            "rank": np.tile(np.arange(1, top + 1, dtype=np.int32), 20),
            "layer": rng.integers(0, 12, size, dtype=np.int32),
            "unit": rng.integers(0, 3072, size, dtype=np.int32),
            "score": rng.random(size, dtype=np.float32),
            "activation": rng.random(size, dtype=np.float32),
            "words": ["horse, horses, mane, cart, foal"] * size,
        }
        (folder / "shards").mkdir(parents=True, exist_ok=True)
        write_table(
            pa.table(columns, schema=NEURON_SHARDS),
            folder / f"shards/neurons-00000-{flush:07}-{flush:07}.parquet",
        )
        with RunWriter(folder / f"made-{flush}", manifest=MANIFEST) as writer:
            for one in range(20 * flush, 20 * flush + 20):
                writer.add(result(one, empty_mask=True))
        for kind, suffix in (("scores", "safetensors"), ("samples", "parquet")):
            made = folder / f"made-{flush}/shards/{kind}-00000-0000000-0000000.{suffix}"
            made.rename(folder / f"shards/{kind}-00000-{flush:07}-{flush:07}.{suffix}")
    return folder


@pytest.mark.parametrize("rows", [200_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_many_rows_are_merged_read_filtered_joined_and_aggregated_in_seconds(
    rows: int, tmp_path: Path
) -> None:
    folder = large_run(tmp_path / "run", samples=rows // 1000)
    writer = RunWriter(folder, manifest=MANIFEST, resume=True)
    spent: dict[str, float] = {}

    def timed(name: str, began: float) -> None:
        spent[name] = time.process_time() - began  # of processors: others may use the machine

    began = time.process_time()
    writer.finish()
    timed("merge", began)
    run = Run(folder)
    began = time.process_time()
    whole = run.neurons
    timed("read", began)
    assert len(whole) == rows
    began = time.process_time()
    some = run.read_neurons(concept="thing3", top=10)
    timed("filter", began)
    assert len(some) == 10 * sum(index % 9 == 3 for index in range(rows // 1000))
    began = time.process_time()
    mean = whole[whole["rank"] <= 10].groupby(["concept", "layer"])["score"].mean()
    timed("aggregate", began)
    assert len(mean) == 9 * 12
    began = time.process_time()
    joined = join_runs([folder], tmp_path / "joined")
    timed("join", began)
    assert joined.neurons == (rows,)
    assert pads.dataset(tmp_path / "joined/neurons.parquet").count_rows() == rows
    assert sum(spent.values()) < 25e-6 * rows, spent  # 5 s for 200,000, on a busy machine


def test_joining_takes_the_memory_of_a_part(tmp_path: Path) -> None:
    folder = large_run(tmp_path / "run", samples=200, top=500)
    RunWriter(folder, manifest=MANIFEST, resume=True).finish()
    once = _peak_of(partial(join_runs, [folder], tmp_path / "once"))
    often = _peak_of(partial(join_runs, [folder] * 8, tmp_path / "often"))
    assert pads.dataset(tmp_path / "often/neurons.parquet").count_rows() == 800_000
    assert often < 1.5 * once


def _peak_of(job: Callable[[], object]) -> int:
    """The most bytes that arrow held meanwhile."""
    peak, done = 0, Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.001):
            peak = max(peak, pa.total_allocated_bytes())

    watcher = Thread(target=watch)
    watcher.start()
    try:
        job()
    finally:
        done.set()
        watcher.join()
    return peak
