"""Running a command under Hydra, with a wrong configuration answered by one line and exit code 2.

`HYDRA_FULL_ERROR=1` in the environment brings the full tracebacks back.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nam.errors import ConfigError, NamError, nearest

Task = Callable[[DictConfig], Any]

PACKAGE = Path(__file__).resolve().parents[1]
STAMP = "NAM_RUN_STAMP"
_FULL = "HYDRA_FULL_ERROR"
#: What may change when a run goes on, though the rest of its part may not.
_FREE = ("data.batch_size", "data.num_workers", "mllm.device")
_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")


def config_dir() -> Path:
    """The folder of the yaml files: `configs/` of a source checkout, else the installed `nam/configs`.

    Raises ConfigError when neither is there.
    """
    for folder in (PACKAGE.parent / "configs", PACKAGE / "configs"):
        if (folder / "train.yaml").is_file():
            return folder
    raise ConfigError(f"no configuration files in {PACKAGE} or beside it: reinstall nam-mllm")


def command(name: str) -> Callable[[Task], Callable[[], None]]:
    """Make a task (configuration -> result) the command whose primary configuration is `<name>.yaml`.

    The run folder's stamp is put in the environment before Hydra starts, so that the rank processes of a
    distributed run share the folder. They are started with this very command line: the task runs with
    Hydra's own singleton cleared, because Lightning would otherwise pass them a changed one.
    """

    def decorate(task: Task) -> Callable[[], None]:
        @functools.wraps(task)
        def run() -> None:
            os.environ.setdefault(STAMP, _new_stamp())
            _register_resolvers()
            if name != "train":  # a training may go on with other settings: more steps, another rate
                sys.argv[1:] = _with_own_settings(sys.argv[1:])  # other ranks are started with it
            user_wants_tracebacks = os.environ.get(_FULL) == "1"
            os.environ[_FULL] = "1"  # Hydra then raises its errors instead of printing them in several lines

            def job(cfg: DictConfig) -> Any:
                if not user_wants_tracebacks:
                    os.environ.pop(_FULL, None)
                try:
                    return _run_job(task, cfg)
                except (NamError, HydraException, OmegaConfBaseException) as error:
                    if user_wants_tracebacks:
                        raise
                    _refuse(explain(error, name, sys.argv[1:]))

            try:
                hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=name)(job)()
            except (NamError, HydraException, OmegaConfBaseException, OSError) as error:
                if user_wants_tracebacks:
                    raise
                _refuse(explain(error, name, sys.argv[1:]))
            except ValueError as error:
                # How Python's logging tells that Hydra's log file cannot be opened.
                if user_wants_tracebacks or not isinstance(error.__cause__, OSError):
                    raise
                _refuse(explain(error.__cause__, name, sys.argv[1:]))
            except KeyboardInterrupt:
                print("interrupted", file=sys.stderr)
                raise SystemExit(130) from None
            finally:
                if not user_wants_tracebacks:
                    os.environ.pop(_FULL, None)

        return run

    return decorate


def rank() -> int:
    """This process's rank as its launcher's environment tells it, 0 when there is none."""
    return next((int(os.environ[key]) for key in _RANKS if os.environ.get(key, "").isdigit()), 0)


def compose(config_name: str, overrides: Iterable[str], *, with_hydra: bool = False) -> DictConfig:
    """The configuration that a command would get from these overrides; `with_hydra` keeps Hydra's own part.

    Inside a command, its own search path (`--config-dir`) counts. Raises Hydra's errors: see `explain`.
    """
    os.environ.setdefault(STAMP, _new_stamp())
    _register_resolvers()
    started = GlobalHydra.instance().is_initialized()
    folder = str(config_dir())
    with nullcontext() if started else hydra.initialize_config_dir(version_base="1.3", config_dir=folder):
        return hydra.compose(config_name, overrides=list(overrides), return_hydra_config=with_hydra)


def explain(error: Exception, config_name: str, overrides: Iterable[str]) -> str:
    """One line for an error of Hydra, OmegaConf or nam, naming the nearest right key or option."""
    text = str(error)
    if isinstance(error, NamError):
        return text
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _missing_option(error.missing_cfg_file, error.options or ())
    if isinstance(error, OverrideParseException):
        return f"cannot read the override {error.override!r}: {_first_line(text)}"
    if isinstance(error, OSError):
        return f"cannot write the run folder (set run_dir=FOLDER): {text}"
    wrong = re.search(r"Could not override '([^']+)'", text)
    if wrong:
        key = wrong.group(1)
        return f"unknown key {key!r}: {_nearest_key(key, _known_keys(config_name, overrides))}"
    parts = [_first_line(text)]
    if isinstance(error.__cause__, OmegaConfBaseException):
        parts.append(_first_line(str(error.__cause__)))
    return ": ".join(part for part in parts if part)


def group_options(group: str) -> list[str]:
    """The options of a configuration group, nested ones as "folder/name"; empty for no such group."""
    folder = config_dir() / group
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def _run_job(task: Task, cfg: DictConfig) -> Any:
    if not cfg.resume:
        cfg.run_dir = HydraConfig.get().runtime.output_dir
    elif Path(cfg.run_dir).resolve() != Path(cfg.resume).resolve():
        raise ConfigError(
            f"resume={cfg.resume} goes on in that folder: leave run_dir={cfg.run_dir} out, or leave resume "
            "out to begin a new run there"
        )
    cfg.overrides = list(HydraConfig.get().overrides.task)
    HydraConfig.instance().cfg = None
    return task(cfg)


def claim_run_folder(cfg: DictConfig, *, settled: Collection[str] = ()) -> None:
    """Write the resolved configuration into the run folder, `config.yaml`, once it is known to be right.

    Raises ConfigError for a folder that holds another run, for a `resume` that holds none, and where a
    resumed run would differ in one of the `settled` parts of its configuration, on which its results depend.
    """
    if rank() != 0:
        return
    path = Path(cfg.run_dir) / "config.yaml"
    if cfg.resume:
        if not path.is_file():
            raise ConfigError(f"resume={cfg.resume}: not a run folder (it has no config.yaml)")
        _refuse_other_settings(cfg, OmegaConf.load(path), settled)
        return
    try:
        with path.open("x") as file:  # of two commands at the same moment, one gets the folder
            file.write(OmegaConf.to_yaml(cfg, resolve=True))
    except FileExistsError as error:
        line = f"run_dir={cfg.run_dir} holds a run already: resume it with resume={cfg.run_dir}"
        raise ConfigError(line) from error
    except OSError as error:
        raise ConfigError(f"cannot write the run folder (set run_dir=FOLDER): {error}") from error


def _with_own_settings(arguments: list[str]) -> list[str]:
    """The command line of a resumed run: what it was started with, then what is given now."""
    at = next((i for i, argument in enumerate(arguments) if argument.startswith("resume=")), None)
    path = Path("" if at is None else arguments[at].partition("=")[2], "config.yaml")
    if at is None or not path.is_file():
        return arguments
    given = {_key(argument) for argument in arguments}
    started: Any = OmegaConf.load(path)
    kept = [
        str(a) for a in started.get("overrides") or [] if _key(str(a)) not in {*given, "run_dir", "resume"}
    ]
    return [*kept, *arguments]


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0].partition("@")[0]


def _refuse_other_settings(cfg: DictConfig, started: Any, settled: Collection[str]) -> None:
    """A resumed run goes on with the settings that decide what it finds."""
    keys = {
        key for each in (started, cfg) for key in _dotted(OmegaConf.to_container(each, resolve=False), "")
    }
    for key in sorted(key for key in keys if key.partition(".")[0] in settled and key not in _FREE):
        before, now = (OmegaConf.select(each, key) for each in (started, cfg))
        if before != now and not isinstance(before, DictConfig):
            raise ConfigError(f"resume={cfg.resume}: the run was started with {key}={before}, not {now}")


def _new_stamp() -> str:
    return datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")[:-3]


def _register_resolvers() -> None:
    OmegaConf.register_new_resolver("nam.package", lambda: str(PACKAGE), replace=True)
    OmegaConf.register_new_resolver("nam.run_dir", _run_dir, replace=True)


def _run_dir(name: str, resume: str | None) -> str:
    return str(resume or Path("runs", name, os.environ[STAMP]))


def _missing_option(path: str, options: Iterable[str]) -> str:
    path = path.removesuffix(".yaml")
    group, _, option = path.partition("/")
    if not option:
        commands = [file.stem for file in config_dir().glob("*.yaml")]
        return f"no primary configuration {path!r}: {nearest(path, commands)}"
    return f"{group}={option}: no such option; {nearest(option, [*options, *group_options(group)])}"


def _known_keys(config_name: str, overrides: Iterable[str]) -> set[str]:
    """Every dotted key of the composed configuration, and every group."""
    groups = {folder.name for folder in config_dir().iterdir() if folder.is_dir()}
    chosen = [
        override
        for override in overrides
        if (parts := override.partition("="))[0] in groups and parts[2] in group_options(parts[0])
    ]
    try:
        cfg = compose(config_name, chosen, with_hydra=True)
    except HydraException:
        cfg = compose(config_name, [], with_hydra=True)
    return groups | set(_dotted(OmegaConf.to_container(cfg, resolve=False), ""))


def _nearest_key(key: str, known: set[str]) -> str:
    """The same name elsewhere, else the closest one under the same parent."""
    parent, _, name = key.rpartition(".")
    same = {other for other in known if other.rpartition(".")[2] == name and not other.startswith("hydra.")}
    beside = {other for other in known if other.rpartition(".")[0] == parent}
    top = {other for other in known if "." not in other}
    return nearest(key, same or beside or top) if len(same) != 1 else f"did you mean {same.pop()!r}?"


def _dotted(node: Any, prefix: str) -> Iterable[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield f"{prefix}{key}"
            yield from _dotted(value, f"{prefix}{key}.")


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def _refuse(line: str) -> None:
    print(f"error: {line}", file=sys.stderr)
    raise SystemExit(2)
