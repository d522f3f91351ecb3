"""What attribute.py refuses before it loads or writes anything, and a run that finds nothing at all."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from nam.app import attribute
from nam.app.edit import main as edit
from nam.app.train import main as train
from nam.mllm.gill import GILL
from nam.store import Run
from tests.runs import command_line, exit_of, write_table

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def command(
    tmp_path: Path,
    gill_folder: Path,
    shared_gill: GILL,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    """Run attribute.py in this process; gives its exit code and what it wrote to standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NAM_RUN_STAMP", "now")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    table = write_table(tmp_path / "table.csv", shared_gill, prompts=("a cat", "draw a red horse ."))

    def run(*overrides: str, plain: bool = False) -> tuple[int, str]:
        mine = [] if plain else command_line(gill_folder, table)
        return exit_of(attribute.main, *mine, *overrides, capsys=capsys)

    return run


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in sorted(folder.rglob("*"))
    }


def line_of(refused: tuple[int, str]) -> str:
    """The one line of a refusal."""
    code, error = refused
    assert code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def test_a_finished_run_is_left_as_it_is_and_loads_nothing(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command("run_dir=out") == (0, "")
    before = contents(tmp_path / "out")
    monkeypatch.setattr(attribute, "module_of", lambda *_: pytest.fail("the model was loaded"))
    monkeypatch.setattr(attribute, "build_all", lambda *_: pytest.fail("loggers were built"))
    again = line_of(command("resume=out", "logger=many"))
    assert "the run in out is finished: there is nothing to resume" in again
    taken = line_of(command("run_dir=out", "logger=many"))
    assert "holds a finished run: set run_dir to another folder" in taken
    assert "resume" not in taken
    assert "the run was started with mllm.steps=2, not 1" in line_of(command("resume=out", "mllm.steps=1"))
    assert contents(tmp_path / "out") == before


def test_a_run_of_other_weights_leaves_nothing_behind(command: Command, tmp_path: Path) -> None:
    command("run_dir=out")
    path = tmp_path / "out" / "manifest.json"
    manifest = json.loads(path.read_text())
    assert {"visual_embeddings", "mapper", "vision.vision", "config"} <= manifest["model"]["parts"].keys()
    manifest["status"] = "running"
    manifest["model"]["parts"]["diffusion.parts.unet"] = "another"
    path.write_text(json.dumps(manifest))
    before = contents(tmp_path / "out")
    line = line_of(command("resume=out", "logger=many"))
    assert "started with other weights of diffusion.parts.unet (fingerprint another, this model has " in line
    assert contents(tmp_path / "out") == before


def test_a_run_without_a_single_score_fails_and_can_be_read(command: Command, tmp_path: Path) -> None:
    rows = [
        ("one", "a cat", "horse", "text"),
        ("two", "a dog", "horse", "text"),
        ("three", "", "cat", "text"),
    ]
    with (tmp_path / "absent.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("id", "prompt", "concept", "modality"), *rows])
    code, error = command("run_dir=out", "data.source.table=absent.csv")
    assert code == 1
    assert (
        "error: none of 3 samples could be attributed; most often: text: 'horse' is not in the answer"
        in error
    )
    run = Run(tmp_path / "out")
    assert run.finished
    assert list(run.samples["status"]) == ["error"] * 3
    assert (tmp_path / "out" / "report.html").is_file()


def test_a_run_with_one_score_has_not_failed(command: Command, tmp_path: Path) -> None:
    with (tmp_path / "table.csv").open("a", newline="") as file:
        csv.writer(file).writerows([("bad", "", "cat"), ("worse", "a cat", "")])
    assert command("run_dir=out")[0] == 0
    assert sorted(Run(tmp_path / "out").samples["status"]) == ["error", "error", "ok", "ok"]


WRONG = [
    (["data=folder"], "'data.source.table' is missing: add data.source.table=..."),
    (["mllm=vlm"], "'mllm.id' is missing: add mllm.id=..."),
    (["experiment=tiny_gill/unet"], "for another command: python train.py experiment=tiny_gill/unet"),
    (["+experiment=tiny_gill/unet"], "for another command: python train.py experiment=tiny_gill/unet"),
    (["reduction=[nam,[acu]]"], "reduction=['acu']: no such option; choose from ablation, act, acu"),
    (["reduction=[nam,null]"], "reduction=null: no such option; choose from ablation, act, acu"),
    (
        ["+foo=1"],
        "unknown key 'foo': choose from aggregate, data, debug, draw, estimate, evaluate, experiment",
    ),
    (
        ["data=folder", "data.source.table=table.csv", "+data.source.folder=x"],
        "unknown key 'data.source.folder'",
    ),
]


@pytest.mark.parametrize(("overrides", "line"), WRONG, ids=[" ".join(o) for o, _ in WRONG])
def test_a_wrong_command_line_gets_one_line(overrides: list[str], line: str, command: Command) -> None:
    assert line in line_of(command("run_dir=out", *overrides, plain=True))
    assert not Path("out").exists()


@pytest.mark.parametrize("main", [train, edit])
def test_an_experiment_is_for_one_command(
    main: Callable[[], Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    expected = (
        "error: experiment=leaderboard is for another command: python attribute.py experiment=leaderboard\n"
    )
    assert exit_of(main, "experiment=leaderboard", capsys=capsys) == (2, expected)


def test_a_mistyped_column_is_refused(command: Command, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("id,promt,concept\none,a cat,cat\n")
    line = line_of(command("data.source.table=mine.csv"))
    assert "data.source.table=mine.csv: unknown column 'promt': did you mean 'prompt'?" in line


def test_a_part_that_is_no_number_ends_the_run_in_one_line(
    command: Command, gill_folder: Path, tmp_path: Path
) -> None:
    broken = shutil.copytree(gill_folder, tmp_path / "model")
    path = next((broken / "unet").glob("*.safetensors"))
    weights = load_file(path)
    weights["conv_in.bias"][0] = float("nan")
    save_file(weights, path, metadata={"format": "pt"})
    code, error = command("run_dir=out", f"mllm.folder={broken}")
    assert code == 2
    assert "conv_in.bias holds NaN or infinity" in error.splitlines()[-1]


def test_a_hub_that_cannot_be_reached_is_told_at_once(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("it was tried again"))
    line = line_of(command("run_dir=out", "mllm=vlm", "mllm.id=nobody/nothing", "data=scenes", plain=True))
    assert "nobody/nothing is no folder and was not fetched before" in line
    assert "http://127.0.0.1:9 cannot be reached: give a folder" in line
