"""Real runs that are killed at random points and go on, each time in another number of processes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from nam.mllm.gill import GILL
from nam.store import Run
from tests.app.killing import Death, run
from tests.runs import PROMPTS, assert_same, command_line, write_table

#: Most kills of one run, before it is let come to its end.
MOST = 4

#: Longest time between an event and the kill, in seconds: a few batches.
DELAY = 0.5


@pytest.mark.parametrize(
    ("seed", "kills"), [(0, 2), *(pytest.param(seed, 5, marks=pytest.mark.slow) for seed in range(1, 6))]
)
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_tables(
    seed: int,
    kills: int,
    tmp_path: Path,
    gill_folder: Path,
    shared_gill: GILL,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    table = write_table(tmp_path / "table.csv", shared_gill)
    arguments = command_line(gill_folder, table)
    whole = tmp_path / "whole"
    _, events = run([*arguments, f"run_dir={whole}", "data.batch_size=2"], folder=whole)
    rng = random.Random(seed)
    total, number = 0, 0
    while total < kills:
        broken = tmp_path / f"broken-{number}"
        number += 1
        total += _kill_and_resume(rng, arguments, broken, events, most=min(MOST, kills - total))
        assert_same(whole, broken)


def _kill_and_resume(
    rng: random.Random, arguments: list[str], folder: Path, events: int, *, most: int
) -> int:
    """Start a run, kill it up to `most` times, resume it to its end; the number of kills."""
    kills = 0
    done: frozenset[int] = frozenset()
    while True:
        resumed = (folder / "config.yaml").is_file()
        place = [f"resume={folder}"] if resumed else [f"run_dir={folder}"]
        processes, size = rng.choice((1, 2, 3)), rng.choice((1, 2, 4))
        last = max(8, round(events * (1 - len(done) / len(PROMPTS)) / processes))  # that it still has, about
        death = (
            Death(rng.randint(1, last), rng.choice((0.0, rng.uniform(0, DELAY)))) if kills < most else None
        )
        killed, _ = run(
            [*arguments, *place, f"data.batch_size={size}"],
            folder=folder,
            processes=processes,
            death=death,
            victim=rng.randrange(processes),
        )
        kills += killed
        if not killed:
            return kills
        if (folder / "manifest.json").is_file():
            run_now = Run(folder)
            assert done <= run_now.done  # nothing that was finished is lost
            assert len(run_now.samples) == len(run_now.done)
            done = run_now.done
            if run_now.finished:  # it died after its last change
                return kills
