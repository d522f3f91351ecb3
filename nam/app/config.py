"""The configuration of a command: composed, and kept in the run folder."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from contextlib import nullcontext
from datetime import datetime
from io import StringIO
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nam.errors import ConfigError
from nam.folders import PACKAGE, configs_folder
from nam.store.files import CONFIG_FILE

STAMP = "NAM_RUN_STAMP"
#: What may change when a run goes on, though the rest of its part may not.
_FREE = (
    *("data.batch_size", "data.num_workers"),
    *("mllm.device", "mllm.max_memory", "mllm.generator_device"),
)
_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")


def rank() -> int:
    """This process's rank as its launcher's environment tells it, 0 when there is none."""
    return next((int(os.environ[key]) for key in _RANKS if os.environ.get(key, "").isdigit()), 0)


def compose(config_name: str, overrides: Iterable[str], *, with_hydra: bool = False) -> DictConfig:
    """The configuration that a command would get from these overrides; `with_hydra` keeps Hydra's own part.

    Inside a command, its own search path (`--config-dir`) counts. Raises Hydra's errors (`nam.app.explain`).
    """
    prepare()
    started = GlobalHydra.instance().is_initialized()
    folder = str(configs_folder())
    with nullcontext() if started else hydra.initialize_config_dir(version_base="1.3", config_dir=folder):
        return hydra.compose(config_name, overrides=list(overrides), return_hydra_config=with_hydra)


def group_options(group: str) -> list[str]:
    """The options of a configuration group, nested ones as "folder/name"; empty for no such group."""
    folder = configs_folder() / group
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def check_run_folder(cfg: DictConfig, *, settled: Collection[str] = ()) -> None:
    """Refuse the run folder without writing anything, as `claim_run_folder` does; process 0 alone looks."""
    if rank() != 0:
        return
    path = Path(cfg.run_dir, CONFIG_FILE)
    if cfg.resume:
        if not path.is_file():
            raise ConfigError(f"resume={cfg.resume}: not a run folder (it has no {CONFIG_FILE})")
        _refuse_links(Path(cfg.run_dir))
        _refuse_other_settings(cfg, read_run_config(path), settled)
    elif path.exists():
        raise _taken(cfg)


def claim_run_folder(cfg: DictConfig, *, settled: Collection[str] = ()) -> None:
    """Write the resolved configuration into the run folder, `config.yaml`, once it is known to be right.

    Raises ConfigError for a folder that holds another run, for a `resume` that holds none, and where a
    resumed run would differ in one of the `settled` parts of its configuration, on which its results depend.
    """
    check_run_folder(cfg, settled=settled)
    if rank() != 0 or cfg.resume:
        return
    path = Path(cfg.run_dir, CONFIG_FILE)
    try:
        with path.open("x") as file:  # of two commands at once, one gets it
            file.write(OmegaConf.to_yaml(cfg, resolve=True))
    except FileExistsError as error:
        raise _taken(cfg) from error
    except OSError as error:
        path.unlink(missing_ok=True)  # of a full disk: what is left of it would be taken for a run
        raise ConfigError(f"cannot write the run folder (set run_dir=FOLDER): {error}") from error


def read_run_config(path: Path) -> DictConfig:
    """The configuration that a run folder holds.

    Raises:
        ConfigError: it cannot be read, or is something else; also where it refers to parts of itself, which a
            run's never does and which can make a short file fill the memory.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            raise ConfigError(f"{path} is no configuration of a run: it has YAML aliases")
        found = OmegaConf.load(StringIO(text))
    except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException, RecursionError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    if not isinstance(found, DictConfig) or not isinstance(found.get("overrides"), ListConfig | None):
        raise ConfigError(f"{path} is no configuration of a run")
    return found


def _taken(cfg: DictConfig) -> ConfigError:
    from nam.store.claim import is_finished

    if is_finished(cfg.run_dir):
        return ConfigError(f"run_dir={cfg.run_dir} holds a finished run: set run_dir to another folder")
    return ConfigError(f"run_dir={cfg.run_dir} holds a run already: resume it with resume={cfg.run_dir}")


def _refuse_links(folder: Path) -> None:
    """A run folder that was handed over is not to have its files written elsewhere."""
    for path in folder.iterdir():
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ConfigError(
                f"resume={folder}: {path.name} leads to {path.resolve()}, out of the run folder; put a copy "
                "in its place"
            )


def _refuse_other_settings(cfg: DictConfig, started: Any, settled: Collection[str]) -> None:
    """A resumed run goes on with the settings that decide what it finds."""
    plain = (OmegaConf.to_container(each, resolve=False) for each in (started, cfg))
    keys = {key for each in plain for key in dotted_keys(each)}
    for key in sorted(key for key in keys if key.partition(".")[0] in settled and not _is_free(key)):
        before, now = (OmegaConf.select(each, key) for each in (started, cfg))
        if before != now and not isinstance(before, DictConfig):
            raise ConfigError(f"resume={cfg.resume}: the run was started with {key}={before}, not {now}")


def _is_free(key: str) -> bool:
    return any(key == free or key.startswith(f"{free}.") for free in _FREE)


def prepare() -> None:
    """Set the run folder's stamp, unless the environment has one, and make our resolvers known."""
    os.environ.setdefault(STAMP, datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")[:-3])
    OmegaConf.register_new_resolver("nam.package", lambda: str(PACKAGE), replace=True)
    OmegaConf.register_new_resolver("nam.run_dir", _run_dir, replace=True)


def _run_dir(name: str, resume: str | None) -> str:
    """A new folder, or the one of the run or the sweep that goes on."""
    return str(resume or Path("runs", name, os.environ[STAMP]))


def dotted_keys(node: Any, prefix: str = "") -> Iterable[str]:
    """Every key of nested mappings, with dots between its parts; lists are not looked into."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield f"{prefix}{key}"
            yield from dotted_keys(value, f"{prefix}{key}.")
