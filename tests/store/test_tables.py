"""Large tables in little memory, damaged folders, and any text."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nam.store import Run, RunWriter, StoreError
from nam.store.dense import sum_keys
from nam.types import Concept
from tests.store.results import MANIFEST, result, words

_PEAK = """
import sys
from pathlib import Path
import numpy as np, pyarrow as pa
from nam.store.schema import NEURON_SHARDS, NEURONS
from nam.store.shards import merge_tables, write_table

folder, samples = Path(sys.argv[1]), int(sys.argv[2])
def shard(rank):
    for index in range(rank, samples, 4):
        size = 1000
        yield pa.table(
            {"index": np.full(size, index), "sample": [f"s{index}"] * size, "concept": ["horse"] * size,
             "modality": ["text"] * size, "method": ["nam"] * size,
             "rank": np.arange(1, size + 1, dtype=np.int32), "layer": np.zeros(size, np.int32),
             "unit": np.arange(size, dtype=np.int32), "score": np.full(size, index, np.float32),
             "activation": np.zeros(size, np.float32), "words": [f"word{i}" for i in range(size)]},
            schema=NEURON_SHARDS)
paths = []
for rank in range(4):
    paths.append(folder / f"{rank}.parquet")
    write_table(pa.concat_tables(shard(rank)), paths[-1])
before = pa.default_memory_pool().max_memory()
import threading, time
peak, running = 0, True
def watch():
    global peak
    while running:
        peak = max(peak, pa.total_allocated_bytes())
        time.sleep(0.001)
watcher = threading.Thread(target=watch); watcher.start()
merge_tables(paths, folder / "merged.parquet", NEURONS)
running = False; watcher.join()
print(peak)
"""


def test_merging_many_rows_takes_bounded_memory_and_time(tmp_path: Path) -> None:
    peaks = {}
    for samples in (200, 600):
        folder = tmp_path / str(samples)
        folder.mkdir()
        start = time.monotonic()
        command = [sys.executable, "-c", _PEAK, str(folder), str(samples)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert time.monotonic() - start < 60
        peaks[samples] = int(done.stdout)
    assert peaks[600] < 1.5 * peaks[200]
    start = time.monotonic()
    merged = pd.read_parquet(tmp_path / "600" / "merged.parquet")
    best = merged[merged["rank"] <= 10].groupby("sample")["score"].mean()
    assert time.monotonic() - start < 30
    assert (len(merged), len(best)) == (600_000, 600)
    assert merged["sample"].tolist()[::1000] == [f"s{index}" for index in range(600)]


def test_a_part_of_the_neurons(tmp_path: Path) -> None:
    with RunWriter(tmp_path, manifest=MANIFEST, words=words, top=10) as writer:
        for index in (4, 1, 3):
            writer.add(result(index))
    run = Run(tmp_path)
    whole = run.neurons
    assert whole["sample"].drop_duplicates().tolist() == ["s1", "s3", "s4"]
    found = run.read_neurons(concept="car", modality="image", method="nam", top=2)
    assert found["sample"].tolist() == ["s1", "s1", "s4", "s4"]
    assert run.read_neurons(samples=["s3"])["concept"].unique().tolist() == ["horse"]
    assert run.read_neurons(samples=[]).empty


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "holds no run"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "cannot read"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "should hold a JSON object"),
        (lambda folder: (folder / "manifest.json").write_text('{"schema_version": 99}'), "schema 99"),
        (lambda folder: (folder / "samples.parquet").write_bytes(b"PAR1 no"), "cannot read"),
        (
            lambda folder: pd.DataFrame({"a": [1]}).to_parquet(folder / "samples.parquet"),
            "lacks the column index",
        ),
        (lambda folder: (folder / "scores.safetensors").write_bytes(b"\xff" * 40), "cannot read"),
        (
            lambda folder: next((folder / "shards").glob("neurons-*")).unlink(),
            "flush 0 of process 0 has no neurons",
        ),
    ],
)
def test_damaged_folders_are_one_clear_line(tmp_path: Path, damage: Any, message: str) -> None:
    with RunWriter(tmp_path, manifest=MANIFEST, words=words) as writer:
        writer.add(result(0))
    damage(tmp_path)
    with pytest.raises(StoreError, match=message) as caught:
        _read_everything(tmp_path)
    assert "\n" not in str(caught.value)


def _read_everything(folder: Path) -> None:
    run = Run(folder)
    assert len(run.samples) == 1
    assert len(run.neurons)
    for key in run.keys:
        run.scores(*key)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200), name=st.sampled_from(["samples.parquet", "scores.safetensors"]))
def test_any_bytes_for_a_file_are_an_error(tmp_path: Path, data: bytes, name: str) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(MANIFEST))
    for stale in ("samples.parquet", "scores.safetensors"):
        (tmp_path / stale).unlink(missing_ok=True)
    (tmp_path / name).write_bytes(data)
    run = Run(tmp_path)
    with pytest.raises(StoreError):
        _ = run.samples if name == "samples.parquet" else run.scores("a", "text", "nam")


@settings(max_examples=15, deadline=None)
@given(name=st.text(max_size=8), prompt=st.text(), reason=st.text(min_size=1))
def test_any_text_comes_back(
    tmp_path_factory: pytest.TempPathFactory, name: str, prompt: str, reason: str
) -> None:
    folder = tmp_path_factory.mktemp("run")
    concept = Concept(name, ("a|b", "\ud800"))
    made = result(0)
    scores = tuple(replace(one, concept=concept) for one in made.scores)
    with RunWriter(folder, manifest=MANIFEST, words=words, top=3) as writer:
        writer.add(replace(made, id="x", concept=concept, prompt=prompt, scores=scores))
        writer.add(replace(made, index=1, id="../..", scores=(), prompt=prompt, errors=(("", reason),)))
        writer.finish()
    run = Run(folder)
    assert run.samples["prompt"].tolist() == [prompt, prompt]
    assert run.samples["error"][1] == reason
    assert run.samples["forms"][0].tolist() == [*dict.fromkeys((name, "a|b", "?"))]
    assert set(run.neurons["concept"]) == {name}
    assert run.keys == ((name, "image", "nam"), (name, "text", "nam"))
    assert sorted(path.name for path in (folder / "images").iterdir())[0] == "0000000-mask.png"
    assert all(path.resolve().is_relative_to(folder) for path in folder.rglob("*"))


def test_keys_with_bars() -> None:
    assert sum_keys(["a|b|text|nam|count", "a|b|text|nam|scores", "odd"]) == [("a|b", "text", "nam")]
