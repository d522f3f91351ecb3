"""attribute.py in processes that die at a chosen point, forked from one that has imported everything."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

#: Changes and openings of files, as Python announces them (audit events, PEP 578).
EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree")

#: What takes seconds to import.
PRELOAD = [
    "nam.app.attribute",
    "nam.attribution",
    "nam.mllm.gill_folder",
    "nam.modules.attribution",
    "nam.report.tracking",
    "nam.report",
    "nam.store.callback",
    "transformers.models.opt.modeling_opt",
    "transformers.models.clip.modeling_clip",
    "diffusers.models.unets.unet_2d_condition",
]


@dataclass(frozen=True)
class Death:
    """When a process dies.

    Attributes:
        event: At its how-manieth opening or change of a file in the run folder, from 1.
        delay: Seconds later, 0 for at once.
        of: Counts only files with this in their path.
    """

    event: int
    delay: float = 0.0
    of: str = ""


def context() -> Any:
    """Starts processes in a moment: they are forked from one that has imported what `PRELOAD` names."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(PRELOAD)
    return found


def run(
    arguments: Sequence[str],
    *,
    folder: Path,
    processes: int = 1,
    death: Death | None = None,
    victim: int = 0,
    longest: float = 300.0,
) -> tuple[bool, int]:
    """Run the command in so many processes, as torchrun starts them.

    Args:
        arguments: Of the command.
        folder: The run folder.
        processes: Their number.
        death: When `victim` dies; the others are then killed too.
        victim: Rank of a process.
        longest: Seconds after which it is given up.

    Returns:
        Whether it was killed, and the number of events that the first process saw.
    """
    ctx = context()
    events = ctx.Value("q", 0)
    port = _free_port()
    started: list[BaseProcess] = []
    for rank in range(processes):
        rules = (str(folder), death if rank == victim else None, events if rank == 0 else None)
        process = ctx.Process(target=_job, args=(list(arguments), rank, processes, port, *rules))
        process.start()
        started.append(process)
    started[victim].join(longest)
    killed = started[victim].exitcode in (-signal.SIGKILL, -signal.SIGALRM)
    for process in started:
        if killed:
            process.kill()
        process.join(60)
        if process.exitcode is None:
            process.kill()
        if not killed and process.exitcode != 0:
            raise AssertionError(f"the command ended with {process.exitcode}")
    return killed, events.value


def _job(
    arguments: list[str], rank: int, processes: int, port: int, folder: str, death: Death | None, events: Any
) -> None:
    if processes > 1:
        launched = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        launched |= {
            "GROUP_RANK": 0,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "TORCHELASTIC_RUN_ID": 0,
        }
        os.environ.update({name: str(value) for name, value in launched.items()})
        ddp = ["trainer=ddp", "trainer.accelerator=cpu", f"trainer.devices={processes}"]
        arguments = [argument for argument in arguments if not argument.startswith("trainer=")] + ddp
    os.environ["NAM_RUN_STAMP"] = "now"
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    sys.argv = ["attribute.py", *arguments]
    seen = counted = 0

    def watch(event: str, given: tuple[Any, ...]) -> None:
        nonlocal seen, counted
        if event in EVENTS and given and str(given[0]).startswith(folder):
            seen += 1
            if events is not None:
                events.value = seen
            if death is None or death.of not in str(given[0]):
                return
            counted += 1
            if counted == death.event:
                if death.delay:
                    signal.setitimer(signal.ITIMER_REAL, death.delay)  # whose default is to end the process
                else:
                    os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    from nam.app.attribute import main

    main()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
