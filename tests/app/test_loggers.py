"""W&B may be out of reach, refuse the key, go away, crash or have no room: a run goes on and ends in time."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nam.app import attribute, train
from nam.app.loggers import Wandb, end_records, wandb_logger
from nam.app.quiet import log_apart
from nam.mllm.gill import GILL
from nam.modules.attribution import AttributionModule
from nam.store import Run
from tests.app.edits import edit
from tests.app.line_part import ARGS, LinePart, install
from tests.app.wandb_server import KEY, Handler, Refusing, Server
from tests.runs import PROMPTS, command_line, run_command, write_table

__all__ = ["edit"]

ROOT = Path(__file__).parents[2]

#: Waiting no longer than this, in seconds, for the server at either end of a run.
WAIT = {"wait": 2.0, "upload": 2.0}
OVERRIDES = ["logger=wandb", "logger.wandb.wait=2", "logger.wandb.upload=2"]

#: Longest time, in seconds, that W&B may take of a run, on a busy machine.
LONGEST = 90.0

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # sockets of a client that gives up


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NAM_RUN_STAMP", "now")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[type[Handler] | None], Server]]:
    """Start a server that W&B's client knows, and has a key for."""
    import wandb

    started: list[Server] = []

    def start(handler: type[Handler] | None) -> Server:
        started.append(Server(handler))
        monkeypatch.setenv("WANDB_BASE_URL", started[-1].url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
        wandb.teardown()  # it reads the environment once
        return started[-1]

    yield start
    for one in started:
        one.stop()
    wandb.teardown()


def crash() -> None:
    """Kill W&B's own process, which every record goes through."""
    mine = [
        thing
        for thing in gc.get_objects()
        if type(thing) is subprocess.Popen and "wandb-core" in str(thing.args)
    ]
    assert mine
    for process in mine:
        process.kill()
        process.wait()


def records(folder: Path, kind: str) -> list[Path]:
    return list(folder.glob(f"wandb/{kind}-*/*.wandb"))


def used(logger: Wandb, meanwhile: Callable[[], object] = lambda: None) -> float:
    """Log as Lightning does, with something happening half-way; the seconds that it took."""
    began = time.monotonic()
    _ = logger.experiment
    logger.log_hyperparams({"seed": 3})
    logger.log_metrics({"loss": 1.0}, step=0)
    meanwhile()
    for step in range(1, 20):
        logger.log_metrics({"loss": 1.0 / step}, step=step)
    logger.save()
    logger.finalize("success")
    end_records(failed=False)
    return time.monotonic() - began


@pytest.mark.parametrize("trouble", ["no server", "silence", "expired key", "no key at all"])
def test_records_stay_here_where_the_server_cannot_be_used(
    trouble: str,
    server: Callable[..., Server],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    there = server({"expired key": Refusing}.get(trouble))
    if trouble == "no server":
        there.stop()
    if trouble == "no key at all":
        monkeypatch.setenv("WANDB_API_KEY", "x")
    with caplog.at_level(logging.WARNING, "nam.app.loggers"):
        assert used(wandb_logger(folder=".", project="nam", **WAIT)) < LONGEST
    (told,) = [record.message for record in caplog.records if record.name == "nam.app.loggers"]
    assert told.startswith("W&B cannot be used (")
    assert told.endswith("its records stay in ./wandb")
    assert len(records(Path(), "offline-run")) == 1


@pytest.mark.parametrize(
    ("mode", "key", "offline", "first"),
    [
        ("disabled", KEY, None, "disabled"),
        ("offline", KEY, None, "offline"),
        ("online", "", None, "online"),
        ("disabled", "", False, "online"),  # what the configuration says comes first
        ("nonsense", KEY, None, "online"),
        ("", "", None, "offline"),
    ],
)
def test_the_environment_says_where_records_go(
    mode: str, key: str, offline: bool | None, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", mode)
    monkeypatch.setenv("WANDB_API_KEY", key)
    assert wandb_logger(folder=".", project="nam", offline=offline)._modes[0] == first


@pytest.mark.parametrize("trouble", ["none", "the server goes away", "the client crashes"])
def test_what_goes_wrong_half_way_is_waited_for_no_longer_than_is_said(
    trouble: str, server: Callable[..., Server], caplog: pytest.LogCaptureFixture
) -> None:
    import wandb

    there = server(Handler)
    happens: dict[str, Callable[[], object]] = {
        "none": lambda: None, "the server goes away": there.stop, "the client crashes": crash,
    }  # fmt: skip
    logger = wandb_logger(folder=".", project="nam", **WAIT)
    with caplog.at_level(logging.WARNING, "nam.app.loggers"):
        assert used(logger, happens[trouble]) < LONGEST
    assert logger._wandb_init["mode"] == "online"
    assert len(records(Path(), "run")) == 1
    told = [record.message for record in caplog.records if record.name == "nam.app.loggers"]
    assert bool(told) == (trouble == "the client crashes")
    assert wandb.run is None
    caplog.clear()  # the next run of a sweep is not disturbed
    with caplog.at_level(logging.WARNING, "nam.app.loggers"):
        assert used(wandb_logger(folder="next", project="nam", offline=True, **WAIT)) < LONGEST
    assert not [record for record in caplog.records if record.name == "nam.app.loggers"]
    assert len(records(Path("next"), "offline-run")) == 1


def test_processes_keep_logs_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, path = logging.getLogger(), tmp_path / "attribute.log"
    for rank, name in ((0, path.name), (3, "attribute-3.log")):
        handler = logging.FileHandler(path)
        monkeypatch.setattr(root, "handlers", [handler])  # without those that other runs have left
        log_apart(rank)
        root.error("out of memory in %d", rank)
        handler.close()
        assert f"out of memory in {rank}" in (tmp_path / name).read_text()
    assert "in 3" not in path.read_text()


FULL = """
import logging, resource, signal, sys
import numpy as np
from PIL import Image
from nam.app.loggers import end_records, wandb_logger
from nam.report.tracking import forgiven
logging.basicConfig()
logger = wandb_logger(folder=".", project="nam", wait=5, upload=5)
if {begun}:
    logger.experiment
resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room}))  # inherited by the process that W&B starts
picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (128, 128, 3), dtype=np.uint8))
for step in range(300):
    logger.log_metrics({{f"value {{step}}": 1.0}}, step=step)
with forgiven(logger):
    logger.log_image("picture", [picture])
end_records(failed=False)
print("the run goes on")
"""


@pytest.mark.parametrize(
    ("begun", "room"),
    [(True, 4000), *(pytest.param(False, room, marks=pytest.mark.slow) for room in (4000, 0))],
)
def test_a_full_disk_takes_the_records_only(begun: bool, room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files may not grow beyond `room` bytes: what a full disk says, but for the number of the error."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    code = FULL.format(begun=begun, room=room)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "the run goes on"
    assert "WARNING:nam" in done.stderr


def command(main: Callable[[], None], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """Run a command in this process, with W&B alone as its logger."""
    run_command(main, *arguments, *OVERRIDES)


def crashing(step: Callable[..., Any]) -> Callable[..., Any]:
    """The same step of a module, before the second of which W&B's client crashes."""
    seen: list[int] = []

    def stepped(*arguments: Any) -> Any:
        seen.append(1)
        if len(seen) == 2:
            crash()
        return step(*arguments)

    return stepped


@pytest.mark.parametrize("trouble", ["expired key", "the client crashes"])
def test_an_attribution_comes_to_its_end(
    trouble: str,
    server: Callable[..., Server],
    gill_folder: Path,
    shared_gill: GILL,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server(Refusing if trouble == "expired key" else Handler)
    if trouble == "the client crashes":
        monkeypatch.setattr(AttributionModule, "predict_step", crashing(AttributionModule.predict_step))
    table = write_table(Path("table.csv"), shared_gill)
    given = [one for one in command_line(gill_folder, table) if one != "logger=none"]
    command(attribute.main, monkeypatch, *given, "data.batch_size=3", "run_dir=out")
    run = Run("out")
    assert run.finished
    assert len(run.samples) == len(PROMPTS)
    assert Path("out/report.html").is_file()


@pytest.mark.parametrize("trouble", ["expired key", "the client crashes"])
def test_a_training_comes_to_its_end(
    trouble: str, server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server(Refusing if trouble == "expired key" else Handler)
    install(monkeypatch)
    if trouble == "the client crashes":
        monkeypatch.setattr(LinePart, "training_step", crashing(LinePart.training_step))
    given = [*ARGS, "trainer=cpu", "trainer.max_steps=40", "experiment=line/first", "run_dir=out"]
    command(train.main, monkeypatch, *given)
    assert torch.load("out/checkpoints/last.ckpt", weights_only=True)["global_step"] == 40
    assert Path("out/weights/first.safetensors").is_file()


def test_an_edit_comes_to_its_end(edit: Callable[..., Path], server: Callable[..., Server]) -> None:
    server(Refusing)
    out = edit("out", *OVERRIDES, "editor=finetune", "editor.steps=3", "editor.batch=4")
    assert (out / "patch.safetensors").is_file()
    assert len(records(out, "offline-run")) == 1
