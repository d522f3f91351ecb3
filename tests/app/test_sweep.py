"""A sweep of attributions, each in several processes, has a folder for each job; and the sweep of W&B."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from nam.app.config import compose
from nam.app.settings import check_attribution
from nam.mllm.gill import GILL
from nam.store import Run
from nam.store.joining import find_runs, join_runs
from tests.runs import PROMPTS, command_line, write_table

ROOT = Path(__file__).parents[2]

TWO = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]


@pytest.mark.parametrize(
    ("swept", "jobs"),
    [
        (["reduction=nam,acu"], [(["nam"], 0), (["acu"], 0)]),
        pytest.param(
            ["reduction=[nam],[acu,nam_total]", "seed=0,1"],
            [(["nam"], 0), (["nam"], 1), (["acu", "nam_total"], 0), (["acu", "nam_total"], 1)],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_every_job_of_a_sweep_has_a_folder_that_all_its_processes_write(
    swept: list[str],
    jobs: list[tuple[list[str], int]],
    tmp_path: Path,
    gill_folder: Path,
    shared_gill: GILL,
) -> None:
    table = write_table(tmp_path / "table.csv", shared_gill)
    mine = [one for one in command_line(gill_folder, table) if not one.startswith("trainer")]
    command = [sys.executable, str(ROOT / "attribute.py"), *mine, "-m", *TWO, *swept]
    environment = {name: value for name, value in os.environ.items() if name != "NAM_RUN_STAMP"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    (sweep,) = (tmp_path / "runs/attribute").iterdir()  # one stamp for all processes
    folders = sorted(path for path in sweep.iterdir() if path.is_dir())
    assert [folder.name for folder in folders] == [str(number) for number in range(len(jobs))]
    for folder, (methods, seed) in zip(folders, jobs, strict=True):
        run = Run(folder)
        assert run.finished
        assert (run.manifest["methods"], run.manifest["seed"]) == (methods, seed)
        assert sorted(run.samples["index"]) == list(range(len(PROMPTS)))
        assert json.loads((folder / "metrics.json").read_text())["processes"] == 2
        assert {method for _, _, method in run.keys} == set(methods)
    joined = join_runs(find_runs(f"{sweep}/*"), tmp_path / "joined")
    assert joined.samples == (len(PROMPTS),) * len(jobs)


def test_the_sweep_of_wandb_fits_the_command() -> None:
    path = ROOT / "docs/wandb_sweep.yaml"
    sweep: dict[str, Any] = yaml.safe_load(path.read_text())
    assert (ROOT / sweep["program"]).is_file()
    fixed = [word for word in sweep["command"] if "=" in word]
    for key, settings in sweep["parameters"].items():
        for value in settings["values"]:
            check_attribution(compose("attribute", [*fixed, f"{key}={value}"]))
    assert re.search(r"wandb sweep .*docs/wandb_sweep\.yaml", path.read_text())
