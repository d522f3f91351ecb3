"""Running a command under Hydra, with a wrong configuration answered by one line and exit code 2.

`HYDRA_FULL_ERROR=1` in the environment brings the full tracebacks back.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nam.app.config import check_run_folder, prepare, rank, read_run_config
from nam.app.explain import (
    explain,
    refuse_other_commands,
    refuse_repeats,
    refuse_unknown_keys,
    wrong_choice,
    wrong_item,
)
from nam.app.loggers import end_records
from nam.app.quiet import log_apart, say
from nam.errors import ConfigError, NamError
from nam.folders import configs_folder
from nam.store.files import CONFIG_FILE

Task = Callable[[DictConfig], Any]

#: Exit codes: of a run that came to its end with nothing but errors, and, as shells count them, of signals.
FAILED, INTERRUPTED, TERMINATED = 1, 130, 143
_FULL = "HYDRA_FULL_ERROR"


def command(name: str, *, check: Task = check_run_folder) -> Callable[[Task], Callable[[], None]]:
    """Make a task (configuration -> result) the command whose primary configuration is `<name>.yaml`.

    The run folder's stamp is put in the environment before Hydra starts, so that the rank processes of a
    distributed run share the folder. They are started with this very command line: the task runs with
    Hydra's own singleton cleared, because Lightning would otherwise pass them a changed one.

    Args:
        name: Of the command.
        check: Raises ConfigError where the run folder holds a job that was asked for something else.
    """

    def decorate(task: Task) -> Callable[[], None]:
        @functools.wraps(task)
        def run() -> None:
            prepare()
            sys.argv[1:] = _in_one_piece(sys.argv[1:])
            there = _folders_there(sys.argv[1:])
            user_wants_tracebacks = os.environ.get(_FULL) == "1"
            os.environ[_FULL] = "1"  # Hydra then raises its errors instead of printing them in several lines

            def job(cfg: DictConfig) -> Any:
                prepare()  # a launcher may have sent the job elsewhere
                log_apart(rank())
                if not user_wants_tracebacks:
                    os.environ.pop(_FULL, None)
                folder, failed = Path(HydraConfig.get().runtime.output_dir), True
                try:
                    result = _run_job(name, task, cfg, check)
                    failed = False
                    return result
                except (NamError, HydraException, OmegaConfBaseException) as error:
                    if user_wants_tracebacks:
                        raise
                    _refuse(explain(error, name, sys.argv[1:]))
                finally:
                    end_records(failed=failed)
                    _drop_unused(folder, log=f"{name}.log", there=there)

            try:
                if name != "train":  # a training may go on with other settings: more steps, another rate
                    sys.argv[1:] = _with_own_settings(sys.argv[1:])  # other ranks are started with it
                refuse_other_commands(name, sys.argv[1:])
                hydra.main(version_base="1.3", config_path=str(configs_folder()), config_name=name)(job)()
            except (NamError, HydraException, OmegaConfBaseException, OSError) as error:
                if user_wants_tracebacks:
                    raise
                _refuse(explain(error, name, sys.argv[1:]))
            except (ValueError, TypeError) as error:
                line = _line_of(error, name)
                if user_wants_tracebacks or not line:
                    raise
                _refuse(line)
            except KeyboardInterrupt:
                print("interrupted", file=sys.stderr)
                raise SystemExit(INTERRUPTED) from None
            except SIGTERMException:  # Lightning's, whose exit code would be 0
                print("terminated", file=sys.stderr)
                raise SystemExit(TERMINATED) from None
            finally:
                if not user_wants_tracebacks:
                    os.environ.pop(_FULL, None)

        return run

    return decorate


def _run_job(name: str, task: Task, cfg: DictConfig, check: Task) -> Any:
    cfg.overrides = given = list(HydraConfig.get().overrides.task)
    refuse_unknown_keys(cfg, name)
    refuse_repeats(given)
    if cfg.resume and name != "train" and HydraConfig.get().mode == RunMode.MULTIRUN:
        cfg.run_dir = folder = HydraConfig.get().runtime.output_dir
        cfg.resume = folder if Path(folder, CONFIG_FILE).is_file() else None
        if _is_done(cfg, check):
            return None
    elif not cfg.resume:
        cfg.run_dir = HydraConfig.get().runtime.output_dir
    elif Path(cfg.run_dir).resolve() != Path(cfg.resume).resolve():
        raise ConfigError(
            f"resume={cfg.resume} goes on in that folder: leave run_dir={cfg.run_dir} out, or leave resume "
            "out to begin a new run there"
        )
    HydraConfig.instance().cfg = None
    return task(cfg)


def _is_done(cfg: DictConfig, check: Task) -> bool:
    """Whether a job of a sweep that goes on has come to its end, report included; every process says the same
    of a job that it would otherwise take part in. Raises ConfigError where it was another job."""
    from nam.report.pages import REPORT_FILE
    from nam.store.claim import is_finished

    if not cfg.resume or not is_finished(cfg.run_dir):
        return False
    check(cfg)
    if rank() != 0:
        return True
    done = Path(cfg.run_dir, REPORT_FILE).is_file()
    if done:
        say(f"{cfg.run_dir} is finished")
    return done


def _in_one_piece(arguments: list[str]) -> list[str]:
    """The command line with -m behind the overrides: between them argparse would not know the later ones."""
    return sorted(arguments, key=lambda argument: argument in ("-m", "--multirun"))


def _with_own_settings(arguments: list[str]) -> list[str]:
    """The command line of a resumed run: what it was started with, then what is given now."""
    at = next((i for i, argument in enumerate(arguments) if argument.startswith("resume=")), None)
    path = Path("" if at is None else _value(arguments[at]), CONFIG_FILE)
    if at is None or not path.is_file():
        return arguments
    found: Any = OmegaConf.to_container(read_run_config(path), resolve=False)
    # Whoever hands over a run folder does not decide what Hydra itself builds and where it looks.
    started = [one for one in map(str, found.get("overrides") or []) if _is_of_the_task(one)]
    given = {"run_dir", "resume", *map(_key, arguments)}
    chosen = tuple(f"{_key(argument)}." for argument in arguments if argument not in started)
    # What is chosen anew takes its own settings along: trainer=cpu that of trainer.devices=8.
    kept = [one for one in started if _key(one) not in given and not _key(one).startswith(chosen)]
    return [*arguments[:at], *kept, *arguments[at:]]  # behind flags such as --cfg job


def _is_of_the_task(override: str) -> bool:
    return not override.startswith("-") and "hydra" not in override.partition("=")[0]


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0].partition("@")[0]


def _value(argument: str) -> str:
    """What an argument gives, without the quotes that a path with brackets or commas needs."""
    try:
        return str(OverridesParser.create().parse_override(argument).value())
    except HydraException:
        return argument.partition("=")[2]


def _folders_there(arguments: list[str]) -> set[Path]:
    """The run folders that the command line names and that are there before Hydra makes one."""
    keys = ("run_dir=", "resume=", "hydra.run.dir=")
    named = (_value(argument) for argument in arguments if argument.startswith(keys))
    return {path.resolve() for path in map(Path, named) if path.is_dir()}


def _drop_unused(folder: Path, *, log: str, there: Collection[Path]) -> None:
    """Remove what Hydra made for a run that was refused: a folder with nothing but a log."""
    if rank() != 0 or not folder.is_dir() or not {path.name for path in folder.iterdir()} <= {log}:
        return
    with suppress(OSError):
        (folder / log).unlink(missing_ok=True)
        if folder.resolve() not in there:
            folder.rmdir()


def _line_of(error: Exception, name: str) -> str:
    """What a ValueError or TypeError of Hydra's means; "" for any other."""
    if isinstance(error.__cause__, OSError):  # how Python's logging tells that the log file cannot be opened
        return explain(error.__cause__, name, sys.argv[1:])
    return wrong_choice(sys.argv[1:]) or wrong_item(name, sys.argv[1:])


def _refuse(line: str) -> None:
    print(f"error: {line}", file=sys.stderr)
    raise SystemExit(2)
