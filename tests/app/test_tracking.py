"""What W&B and the CSV logger get: an offline run's own records, read back."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from nam.app.attribute import main
from nam.mllm.gill import GILL
from nam.report.tops import own_words, top_neurons
from nam.report.tracking import FILES
from nam.store import Run
from tests.runs import PROMPTS, run_command, write_table


@pytest.fixture
def folder(
    tmp_path: Path, gill_folder: Path, shared_gill: GILL, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """Run the command with both loggers."""

    def run(*overrides: str) -> Path:
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("WANDB_API_KEY", raising=False)
        table = write_table(tmp_path / "table.csv", shared_gill)
        arguments = [
            f"mllm.folder={gill_folder}", "mllm.steps=1", "segmenter=none", "trainer=cpu", "logger=many",
            "data=folder", f"data.source.table={table}", "draw=true", "max_new_tokens=8", "run_dir=out",
        ]  # fmt: skip
        run_command(main, *arguments, *overrides)
        return tmp_path / "out"

    return run


def records(path: Path) -> list[Any]:
    """Every record of an offline W&B run: a LevelDB log of blocks of 32 KiB behind a header of 7 bytes."""
    import wandb
    from wandb.proto import wandb_internal_pb2

    wandb.teardown()  # W&B's process writes the last block some time after a run has ended
    data, at, parts, found = path.read_bytes(), 7, b"", []
    assert data.startswith(b":W&B")
    while at + 7 <= len(data):
        if 0x8000 - at % 0x8000 < 7:  # no room for a head: the rest of the block is padding
            at += 0x8000 - at % 0x8000
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            found.append(wandb_internal_pb2.Record.FromString(parts))
            parts = b""
    return found


def test_both_loggers_get_scalars_table_overlays_and_histograms(
    folder: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    out = folder()
    assert "anonymous" not in capfd.readouterr().err  # a setting of which wandb says that it does nothing
    (path,) = out.glob("wandb/offline-run-*/*.wandb")
    history: dict[str, Any] = {}
    config: dict[str, Any] = {}
    for record in records(path):
        for item in record.history.item:
            history[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
        for item in record.run.config.update or record.config.update:
            config[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
    run = Run(out)
    assert history["samples"] == len(PROMPTS)
    assert history["errors"] == 0
    assert history["seconds/generate"] == pytest.approx(run.metrics["seconds"]["generate"])
    assert history["top_neurons/_type"] == "table-file"
    assert history["overlays/count"] == len(PROMPTS)
    concept = run.samples["concept"][0]
    assert sum(history[f"scores/nam/text/{concept}/values"]) == 128
    assert len(history["layers/nam/T/values"]) == 2
    assert config["max_new_tokens"] == 8
    (table,) = out.glob("wandb/offline-run-*/files/media/table/*.json")
    rows = json.loads(table.read_text())
    tops = top_neurons(run)
    assert rows["columns"] == list(tops.columns)
    assert [row[3:6] for row in rows["data"]] == tops[["rank", "layer", "unit"]].to_numpy().tolist()
    curves = pd.read_csv(out / "curves" / "version_0" / "metrics.csv")
    assert curves["samples"].dropna().tolist() == [len(PROMPTS)]
    assert curves["progress/samples"].dropna().tolist() == [len(PROMPTS)]


def test_an_artifact_holds_report_tables_and_manifest(folder: Callable[..., Path]) -> None:
    out = folder()
    (path,) = out.glob("wandb/offline-run-*/*.wandb")
    found = [one for r in records(path) for one in (r.artifact, r.request.log_artifact.artifact) if one.name]
    (artifact,) = [one for one in found if one.type == "attribution"]
    assert artifact.name == "attribution-out"
    sizes = {entry.path: entry.size for entry in artifact.manifest.contents}
    assert sizes == {name: (out / name).stat().st_size for name in FILES}
    # What is uploaded later is read where the run left it.
    assert {entry.local_path for entry in artifact.manifest.contents} == {str(out / name) for name in FILES}
    assert json.loads(artifact.metadata)["samples"] == len(PROMPTS)


def test_a_tracker_that_fails_does_not_end_the_run(
    folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    warned: list[str] = []

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no server")

    monkeypatch.setattr("lightning.pytorch.loggers.CSVLogger.log_metrics", refuse)
    monkeypatch.setattr("nam.report.tracking.log.warning", lambda text, *values: warned.append(text % values))
    assert Run(folder()).finished
    assert "CSVLogger could not take the results: no server" in warned


def test_own_words_are_counted_by_hand(folder: Callable[..., Path]) -> None:
    run = Run(folder("logger=none"))
    tops = top_neurons(run, top=3)
    share = own_words(run, tops)["nam/text"]
    hits = []
    for row in tops[tops["modality"] == "text"].itertuples():
        forms = set(run.samples.set_index("concept")["forms"][row.concept].tolist())
        hits.append(any(word in forms for word in row.words.split(", ")))
    assert share == pytest.approx(sum(hits) / len(hits))
