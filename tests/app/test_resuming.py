"""What a run that goes on is held against, and what is left of one that was stopped at its very end."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from nam.app import attribute
from nam.mllm.gill import GILL
from nam.modules.attribution import AttributionModule
from nam.store import Run
from nam.store.files import lock
from tests.runs import command_line, exit_of, write_table

#: Run the command; gives its exit code and the last line that it wrote to standard error.
Command = Callable[..., tuple[int, str]]

#: A folder whose name Hydra takes only in quotes.
ODD = "my [old] run"


@pytest.fixture
def command(
    tmp_path: Path,
    gill_folder: Path,
    shared_gill: GILL,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NAM_RUN_STAMP", "now")
    table = write_table(tmp_path / "table.csv", shared_gill)
    begun = [*command_line(gill_folder, table), "data.batch_size=1", "draw=false"]

    def run(place: str, *others: str) -> tuple[int, str]:
        own = place.startswith("resume=") and not others  # a run has settings of its own, a sweep none
        mine = [place] if own else [*begun, place, *others]
        code, said = exit_of(attribute.main, *mine, capsys=capsys)
        return code, said.splitlines()[-1] if said else ""

    return run


def interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


@pytest.fixture
def interrupted(command: Command, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Start a run that is interrupted at its third sample."""
    step = AttributionModule.predict_step

    def start(place: str) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(
                AttributionModule, "predict_step", lambda *of: interrupt() if of[2] == 2 else step(*of)
            )
            assert command(place)[0] == 130

    return start


def test_data_that_have_changed_are_refused(
    command: Command, interrupted: Callable[[str], None], tmp_path: Path
) -> None:
    interrupted("run_dir=out")
    assert Run("out").samples["id"].tolist() == ["p0", "p1"]
    table = tmp_path / "table.csv"
    header, *rows = table.read_text().splitlines()
    said = rows[0].rpartition(",")[2]
    for changed, now in (
        ([f"new,a cat,{said}", *rows], "sample 0 was ['p0', 'draw a red horse on the grass .'"),
        ([rows[0], rows[1].replace("a cat", "a dog"), *rows[2:]], "now it is ['p1', 'a dog'"),
        (rows[:1], "now it is not there"),
    ):
        table.write_text("\n".join([header, *changed, ""]))
        code, line = command("resume=out")
        assert code == 2
        assert "the data has changed since the run was started" in line
        assert now in line
    table.write_text("\n".join([header, *rows, ""]))
    assert command("resume=out") == (0, "")
    assert Run("out").samples["id"].tolist() == [f"p{number}" for number in range(len(rows))]


def test_a_process_that_outlived_its_run_is_waited_for(
    command: Command, interrupted: Callable[[str], None]
) -> None:
    """The second of two processes, whose first was killed: it would write what one process finds again."""
    interrupted("run_dir=out")
    held = lock(Path("out/shards/.lock-1"))
    try:
        code, line = command("resume=out")
        assert code == 2
        assert f"another run is writing into out/shards (process {os.getpid()} on " in line
    finally:
        os.close(held)
    assert command("resume=out") == (0, "")


def test_a_report_that_is_missing_is_written(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("nam.report.build_report", interrupt)
        assert command("run_dir=out") == (130, "interrupted")
    assert Run("out").finished
    assert not Path("out/report.html").exists()
    tables = {name: Path("out", name).read_bytes() for name in ("samples.parquet", "neurons.parquet")}
    Path("out/shards").mkdir()  # as a process that is killed in removing them leaves them
    assert command("resume=out") == (0, "")
    assert "<!doctype html>" in Path("out/report.html").read_text()
    assert "own_words" in Run("out").metrics
    assert tables == {name: Path("out", name).read_bytes() for name in tables}
    assert not Path("out/shards").exists()
    code, line = command("resume=out")
    assert (code, "is finished: there is nothing to resume" in line) == (2, True)


def test_a_sweep_goes_on_with_the_jobs_that_are_left(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step, seen = AttributionModule.predict_step, []

    def stopped(*of: Any) -> Any:
        seen.append(of)
        return interrupt() if len(seen) == 4 else step(*of)  # the second batch of the second job

    with monkeypatch.context() as patch:
        patch.setattr(AttributionModule, "predict_step", stopped)
        assert command("top=5,6,7", "data.batch_size=4", "-m")[0] == 130
    sweep = Path("runs/attribute/now")
    assert [Run(sweep / job).finished for job in "01"] == [True, False]
    assert not (sweep / "2").exists()
    before = (sweep / "0/manifest.json").read_bytes()
    code, line = command(f"resume={sweep}", "top=7,6,5", "-m")
    assert code == 2
    assert "the run was started with top=5, not 7" in line
    assert command(f"resume={sweep}", "top=5,6,7", "data.batch_size=7", "-m") == (0, "")
    assert f"{(sweep / '0').resolve()} is finished\n" in capsys.readouterr().out
    assert (sweep / "0/manifest.json").read_bytes() == before
    for job, top in (("0", 5), ("1", 6), ("2", 7)):
        run = Run(sweep / job)
        assert run.finished
        assert run.neurons.groupby(["sample", "modality"]).size().max() == top
        assert run.samples["id"].tolist() == [f"p{number}" for number in range(7)]


def test_a_folder_with_brackets_in_its_name_and_one_that_has_moved(
    command: Command, interrupted: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    interrupted(f"run_dir='{ODD}'")
    Path(ODD).rename("ü " + ODD)
    assert command(f"resume='ü {ODD}'") == (0, "")
    assert f"report: ü {ODD}/report.html" in capsys.readouterr().out
    assert len(pd.read_parquet(f"ü {ODD}/samples.parquet")) == 7


def test_a_disk_that_is_full_from_the_start_leaves_no_half_a_run(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> str:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("nam.app.config.OmegaConf.to_yaml", full)
        code, line = command("run_dir=out")
    assert (code, "No space left on device" in line) == (2, True)
    assert command("run_dir=out") == (0, "")
