"""The same seed, the same tables, whatever the processes and batches, killed and resumed by others."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest

from nam.mllm.gill import GILL
from nam.store import Run
from tests.app.killing import Death, run
from tests.runs import PROMPTS, assert_same, command_line, write_table

#: While the first process writes its second batch: the samples' file of each is three events.
DEATH = Death(4, of="samples-00000-")

#: Processes and samples in a batch, before and after the kill.
Parts = tuple[tuple[int, int], tuple[int, int]]

#: One, two and three processes, each with another batch, go on from a kill as another number.
QUICK: list[Parts] = [((2, 1), (3, 2)), ((3, 1), (1, 4))]

#: Every number of processes goes on as every other one.
THOROUGH: list[Parts] = [
    ((before, 1 + after % 2), (after, before)) for before, after in permutations((1, 2, 3), 2)
]


@pytest.mark.parametrize("parts", [QUICK, pytest.param(THOROUGH, marks=pytest.mark.slow)])
def test_tables_depend_on_nothing_but_the_seed(
    parts: list[Parts], tmp_path: Path, gill_folder: Path, shared_gill: GILL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    table = write_table(tmp_path / "table.csv", shared_gill)
    # In float32 the gradient through a random model's picture is off by up to 3e-4 of the largest score.
    asked = ["reduction=[nam,gradxact]", "seed=5", "mllm.dtype=float64"]
    arguments = [*command_line(gill_folder, table), *asked]
    whole = tmp_path / "whole"
    run([*arguments, f"run_dir={whole}", "data.batch_size=2"], folder=whole)
    for number, ((processes, size), (others, their_size)) in enumerate(parts):
        folder = tmp_path / f"broken-{number}"
        begun = [*arguments, f"run_dir={folder}", f"data.batch_size={size}"]
        killed, _ = run(begun, folder=folder, processes=processes, death=DEATH)
        assert killed
        done = Run(folder).done
        assert 0 < len(done) < len(PROMPTS)
        resumed = [*arguments, f"resume={folder}", f"data.batch_size={their_size}"]
        run(resumed, folder=folder, processes=others)
        assert_same(whole, folder)
