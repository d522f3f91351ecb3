"""What a second process adds to a run: `attribute.py` with one process and with several, one thread each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.quality.rows import Measure, Row, Spec

SECTION = "Several processes"

#: Smallest share of N times one process's work that is wanted of N processes.
TARGET = 95.0

#: Prompts that a process answers in a short run and in a long one. What starting costs is in both.
SHORT, LONG = 8, 40

#: Of one thing, asked to be drawn; no picture comes out much cheaper than another.
COMMON = (
    "data.source.concepts=[horse]",
    "data.source={draw_two: 0, draw_riddle: 0, riddle: 0, caption: 0}",
    "data.batch_size=4",
    "trainer=ddp",
    "trainer.accelerator=cpu",
    "logger=none",
)

_ROOT = Path(__file__).parents[2]


def measure_scaling(*, processes: int, pairs: int, weights: str) -> list[Row]:
    """One row: N processes' samples a second, in percent of N times those of one.

    Args:
        processes: N.
        pairs: Times that both are measured.
        weights: The embedded model's folder, or its name.
    """
    label = f"{processes} processes, one thread each: speed over {processes} times that of one"
    spec = Spec("scaling", label, TARGET)
    if processes < 2:
        return [Row(SECTION, spec, None, "this machine has one core")]
    try:
        found = [100 * efficiency(partial(run_seconds, weights=weights), processes) for _ in range(pairs)]
    except RuntimeError as error:
        return [Row(SECTION, spec, None, str(error))]
    return [Row(SECTION, spec, Measure.median(found))]


def efficiency(seconds: Callable[[int, int], float], processes: int) -> float:
    """Time of one process for some more prompts, over that of N processes for as many more each.

    Args:
        seconds: Of a run by so many processes, which answer so many prompts each.
        processes: N.
    """
    alone, together = (seconds(count, LONG) - seconds(count, SHORT) for count in (1, processes))
    return alone / together


def run_seconds(processes: int, prompts: int, *, weights: str) -> float:
    """Seconds of one run of `attribute.py`, without the report.

    Raises:
        RuntimeError: it failed.
    """
    with TemporaryDirectory() as name:
        command = [
            *(sys.executable, "attribute.py", *COMMON, f"run_dir={name}/run", f"mllm.folder={weights}"),
            *(f"trainer.devices={processes}", f"data.source.draw={processes * prompts}"),
        ]
        threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
        done = subprocess.run(
            command, cwd=_ROOT, env={**os.environ, **threads}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-500:]}")
        metrics = json.loads(Path(name, "run", "metrics.json").read_text())
    if metrics["errors"] or metrics["samples"] != processes * prompts:
        raise RuntimeError(f"{metrics['samples']} samples with {metrics['errors']} errors")
    return float(metrics["seconds"]["run"])
