"""The configuration of a command: composed, explained where it is wrong, kept in the run folder."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nam.errors import ConfigError, NamError, nearest

PACKAGE = Path(__file__).resolve().parents[1]
STAMP = "NAM_RUN_STAMP"
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


def rank() -> int:
    """This process's rank as its launcher's environment tells it, 0 when there is none."""
    return next((int(os.environ[key]) for key in _RANKS if os.environ.get(key, "").isdigit()), 0)


def compose(config_name: str, overrides: Iterable[str], *, with_hydra: bool = False) -> DictConfig:
    """The configuration that a command would get from these overrides; `with_hydra` keeps Hydra's own part.

    Inside a command, its own search path (`--config-dir`) counts. Raises Hydra's errors: see `explain`.
    """
    prepare()
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


def refuse_unknown_keys(cfg: DictConfig, config_name: str) -> None:
    """Raise ConfigError for a key at the top that the command's own files do not have, such as +sed=1.

    Keys further down are held against what they are passed to.
    """
    known: set[str] = set()
    for name in (config_name, "base"):
        file: Any = OmegaConf.load(config_dir() / f"{name}.yaml")
        groups = [entry for entry in file.get("defaults", ()) if isinstance(entry, DictConfig)]
        known |= {str(key) for node in (file, *groups) for key in node}
    for key in map(str, cfg):
        if key not in known:
            raise ConfigError(f"unknown key {key!r}: {_nearest_key(key, _known_keys(config_name, ()))}")


def refuse_repeats(overrides: Iterable[str]) -> None:
    """Raise ConfigError for a list that names an option twice: Hydra takes the second for the first."""
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        group, value = override.key_or_group, override.value()
        if isinstance(value, list) and group_options(group):
            twice = [str(option) for option in value if value.count(option) > 1]
            if twice:
                raise ConfigError(f"{group}=[{','.join(map(str, value))}] names {twice[0]!r} twice")


def wrong_choice(arguments: Iterable[str]) -> str:
    """One line for a group that is set to something else than names, such as null, where Hydra raises a
    ValueError; "" when none is."""
    given = [argument for argument in arguments if "=" in argument and not argument.startswith("-")]
    for override in OverridesParser.create().parse_overrides(given):
        group, value = override.key_or_group, override.value()
        options = group_options(group)
        if options and (value is None or isinstance(value, (bool, int, float, dict))):
            word = "null" if value is None else value
            return f"{group}={word}: no such option; choose from {', '.join(options)}, or leave it out"
    return ""


def group_options(group: str) -> list[str]:
    """The options of a configuration group, nested ones as "folder/name"; empty for no such group."""
    folder = config_dir() / group
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


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


def _refuse_other_settings(cfg: DictConfig, started: Any, settled: Collection[str]) -> None:
    """A resumed run goes on with the settings that decide what it finds."""
    keys = {
        key for each in (started, cfg) for key in _dotted(OmegaConf.to_container(each, resolve=False), "")
    }
    for key in sorted(key for key in keys if key.partition(".")[0] in settled and key not in _FREE):
        before, now = (OmegaConf.select(each, key) for each in (started, cfg))
        if before != now and not isinstance(before, DictConfig):
            raise ConfigError(f"resume={cfg.resume}: the run was started with {key}={before}, not {now}")


def prepare() -> None:
    """Set the run folder's stamp, unless the environment has one, and make our resolvers known."""
    os.environ.setdefault(STAMP, datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")[:-3])
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
