"""attribute.py as its user runs it, when the disk, the folder or the user stops it."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from nam.app.attribute import main
from nam.mllm.gill import GILL
from nam.store import Run
from nam.store.files import lock
from tests.runs import assert_same, command_line, run_command, write_table

ROOT = Path(__file__).parents[2]

#: attribute.py with something put in its way.
LAUNCH = """
import errno, os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started deaf to it
{before}
from nam.app.attribute import main
from nam.modules.attribution import AttributionModule
step = AttributionModule.predict_step
def watched(module, batch, batch_idx):
    if batch_idx == 2:
        {at_batch_2}
    return step(module, batch, batch_idx)
AttributionModule.predict_step = watched
main()
"""

#: Linux: the right of root to write where the permissions say no (capabilities(7)).
CAP_DAC_OVERRIDE, PR_CAPBSET_DROP = 1, 24


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NAM_RUN_STAMP", "now")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture
def arguments(tmp_path: Path, gill_folder: Path, shared_gill: GILL) -> list[str]:
    table = write_table(tmp_path / "table.csv", shared_gill)
    return [*command_line(gill_folder, table), "data.batch_size=1"]


def launch(
    *arguments: str, before: str = "", at_batch_2: str = "pass", **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    code = LAUNCH.format(before=before, at_batch_2=at_batch_2)
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, **options)


def run(*arguments: str) -> Path:
    """Run the command in this process."""
    run_command(main, *arguments)
    folder = next(part for part in reversed(arguments) if part.startswith(("run_dir=", "resume=")))
    return Path(folder.partition("=")[2])


def bound_by_permissions() -> None:
    """Take from a process of root's what lets it write anywhere."""
    if os.geteuid() == 0:
        ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0)


def assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in lines[0]


def test_a_disk_that_fills_up_ends_the_run_in_one_line_and_it_goes_on(arguments: list[str]) -> None:
    full = "def full(handle): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))"
    done = launch(*arguments, "run_dir=out", before=full, at_batch_2="os.fsync = full")
    assert_refused(done, "the disk is full: cannot write ", "resume=")
    broken = Run("out")
    assert not broken.finished
    assert list(broken.samples["id"]) == ["p0", "p1"]
    assert set(broken.neurons["sample"]) == {"p0", "p1"}
    run(*arguments, "resume=out")
    assert_same(run(*arguments, "run_dir=whole"), Path("out"))


def test_ctrl_c_keeps_what_was_done_and_the_run_goes_on(arguments: list[str]) -> None:
    done = launch(*arguments, "run_dir=out", at_batch_2="os.kill(os.getpid(), signal.SIGINT)")
    assert done.returncode == 130, done.stderr
    assert f"go on with resume={Path('out').resolve()}" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(Run("out").samples["id"]) == ["p0", "p1"]
    run("resume=out")  # with the settings that it was started with
    assert len(json.loads(Path("out/manifest.json").read_text())["resumed"]) == 1
    assert_same(run(*arguments, "run_dir=whole"), Path("out"))


def test_a_terminated_run_keeps_what_was_done_and_goes_on(arguments: list[str]) -> None:
    done = launch(
        *arguments,
        "run_dir=out",
        "write_interval=5",
        at_batch_2="os.kill(os.getpid(), signal.SIGTERM); raise AssertionError('it goes on')",
    )
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert f"terminated: what was finished can be read in {Path('out').resolve()}" in done.stderr
    assert f"go on with resume={Path('out').resolve()}" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(Run("out").samples["id"]) == ["p0", "p1"]
    run("resume=out")
    assert_same(run(*arguments, "run_dir=whole"), Path("out"))


def test_all_processes_end_and_write_when_the_first_is_terminated(arguments: list[str]) -> None:
    both = """
def at_batch_2():
    import time
    from nam.app.config import rank
    if rank() == 1:
        open("waiting", "w").close()
        time.sleep(150)
    while not os.path.exists("waiting"):
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)
"""
    Path("attribute.py").write_text(LAUNCH.format(before=both, at_batch_2="at_batch_2()"))
    mine = [argument for argument in arguments if not argument.startswith("trainer")]
    two = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "write_interval=5", "run_dir=out"]
    command = [sys.executable, "attribute.py", *mine, *two]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert done.stderr.count("terminated: what was finished can be read in ") == 1
    assert "Traceback" not in done.stderr
    until = time.monotonic() + 60
    while len(Run("out").samples) < 4 and time.monotonic() < until:  # the second process writes by itself
        time.sleep(0.1)
    assert list(Run("out").samples["id"]) == ["p0", "p1", "p2", "p3"]


def test_ctrl_c_before_anything_is_done_is_one_word(arguments: list[str]) -> None:
    early = (
        "import lightning; lightning.seed_everything = lambda *_, **__: os.kill(os.getpid(), signal.SIGINT)"
    )
    done = launch(*arguments, "run_dir=out", before=early)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (130, "interrupted")
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="takes root's rights away by a Linux call")
def test_a_read_only_folder_is_refused(arguments: list[str]) -> None:
    Path("locked").mkdir(mode=0o555)
    done = launch(*arguments, "run_dir=locked", preexec_fn=bound_by_permissions)
    assert_refused(done, "cannot write the run folder (set run_dir=FOLDER)", "Permission denied")
    assert not list(Path("locked").iterdir())


def test_a_folder_that_another_run_writes_into_is_refused(arguments: list[str]) -> None:
    done = launch(*arguments, "run_dir=out", at_batch_2="os.kill(os.getpid(), signal.SIGKILL)")
    assert done.returncode == -signal.SIGKILL
    held = lock(Path("out/shards/.lock-0"))
    try:
        for place, words in (("run_dir", "holds a run already"), ("resume", "another run is writing into")):
            assert_refused(launch(*arguments, f"{place}=out"), words)
    finally:
        os.close(held)
    assert list(Run("out").samples["id"]) == ["p0", "p1"]
