"""train.py end to end on a part of two weights."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from nam.app.train import main
from tests.app import line_part
from tests.app.line_part import ARGS, LinePart, install
from tests.runs import run_command

Tensors = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    install(monkeypatch)


def run(monkeypatch: pytest.MonkeyPatch, *overrides: str) -> None:
    """`python train.py` with these overrides, in this process."""
    monkeypatch.setenv("NAM_RUN_STAMP", "now")
    run_command(main, *ARGS, "trainer=cpu", *overrides)


def test_a_figure_that_is_no_number_is_null(monkeypatch: pytest.MonkeyPatch) -> None:
    step = LinePart.validation_step

    def spoil(part: LinePart, batch: list[torch.Tensor], index: int) -> None:
        step(part, batch, index)
        part.log("val/spoilt", torch.tensor(float("nan")))

    monkeypatch.setattr(LinePart, "validation_step", spoil)
    run(monkeypatch, "experiment=line/first")
    metrics = json.loads(Path("runs/train/now/metrics.json").read_text())
    assert metrics["val/spoilt"] is None
    assert metrics["val/loss"] < 0.1


def step_of(run: Path) -> int:
    """Steps trained, by the run's checkpoint, which needs no pickle to read."""
    state: dict[str, Any] = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    return int(state["global_step"])


def equal(a: Tensors, b: Tensors) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_run_leaves_weights_curves_and_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, "experiment=line/first", "trainer.log_every_n_steps=4")
    folder = Path("runs/train/now")
    weights = load_file(folder / "weights" / "first.safetensors")
    assert weights["weight"].item() == pytest.approx(3, abs=0.5)
    assert weights["bias"].item() == pytest.approx(1, abs=0.5)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(metrics) == {"train/loss", "val/loss"}
    assert metrics["val/loss"] < 0.1
    assert "max_steps: 40" in (folder / "config.yaml").read_text()
    assert "train/loss" in (folder / "curves" / "version_0" / "metrics.csv").read_text()
    assert step_of(folder) == 40


@pytest.mark.parametrize("steps", [20, 24])
def test_a_run_that_broke_off_ends_like_an_uninterrupted_one(
    steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(monkeypatch, "experiment=line/first", "run_dir=whole")
    step = LinePart.training_step

    def break_off(part: LinePart, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        if part.global_step == steps:
            raise RuntimeError("power cut")
        return step(part, batch, index)

    often = "callbacks.checkpoint.minutes=0"
    monkeypatch.setattr(LinePart, "training_step", break_off)
    with pytest.raises(SystemExit):
        run(monkeypatch, "experiment=line/first", "run_dir=broken", often)
    monkeypatch.setattr(LinePart, "training_step", step)
    assert [path.name for path in Path("broken/checkpoints").iterdir()] == ["last.ckpt"]
    assert step_of(Path("broken")) == steps
    assert not Path("broken/weights").exists()
    run(monkeypatch, "experiment=line/first", "resume=broken", often)
    assert equal(load_file("whole/weights/first.safetensors"), load_file("broken/weights/first.safetensors"))
    assert step_of(Path("broken")) == 40


def test_a_terminated_run_does_not_end_as_a_success(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = LinePart.training_step

    def terminate(part: LinePart, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        if part.global_step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(part, batch, index)

    monkeypatch.setattr(LinePart, "training_step", terminate)
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, "experiment=line/first", "run_dir=out")
    assert stop.value.code == 128 + signal.SIGTERM
    assert capsys.readouterr().err.splitlines()[-1] == "terminated"
    assert not Path("out/metrics.json").exists()


def test_a_finished_run_goes_on_to_more_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, "experiment=line/first", "run_dir=whole")
    run(monkeypatch, "experiment=line/first", "run_dir=halves", "trainer.max_steps=20")
    half = load_file("halves/weights/first.safetensors")
    run(monkeypatch, "experiment=line/first", "resume=halves")
    whole, halves = (load_file(f"{name}/weights/first.safetensors") for name in ("whole", "halves"))
    assert equal(whole, halves)
    assert not equal(half, halves)


def test_a_run_is_not_resumed_as_another(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "experiment=line/first", "run_dir=one", "trainer.max_steps=1")
    with pytest.raises(SystemExit):
        run(monkeypatch, "experiment=line/second", "resume=one")
    assert "resume=one was training first, this command trains second" in capsys.readouterr().err


def test_all_parts_in_turn_and_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, "experiment=line/all", "trainer.max_steps=4", "run_dir=all")
    first, second = (load_file(f"all/weights/{name}.safetensors") for name in ("first", "second"))
    assert step_of(Path("all/first")) == step_of(Path("all/second")) == 4
    assert not equal(first, second)  # the second went on from the first
    Path("all/second/metrics.json").unlink()
    run(monkeypatch, "experiment=line/all", "trainer.max_steps=8", "resume=all")
    assert step_of(Path("all/first")) == 4  # finished before: left alone
    assert step_of(Path("all/second")) == 8  # went on
    assert equal(first, load_file("all/weights/first.safetensors"))


def test_wandb_is_offline_without_a_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from nam.app.loggers import end_records, wandb_logger

    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    for offline in (None, True):
        assert wandb_logger(folder=str(tmp_path), project="nam", offline=offline).experiment.settings._offline
        end_records(failed=False)


def test_two_processes_share_one_run_folder(tmp_path: Path) -> None:
    two = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.max_steps=2"]
    command = [sys.executable, line_part.__file__, *ARGS, "experiment=line/all", *two]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs" / "train").iterdir()
    assert (folder / "weights" / "second.safetensors").is_file()
    assert step_of(folder / "second") == 2
