"""`train.py`: train one part of a model, or all of them one after another."""

from __future__ import annotations

import os
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from pickle import UnpicklingError

import lightning as L
from omegaconf import DictConfig, OmegaConf

from nam.app.build import build, build_all, build_data, check, check_call
from nam.app.command import command
from nam.app.config import claim_run_folder, compose, group_options, rank, read_run_config
from nam.app.quiet import hush, say
from nam.errors import ConfigError
from nam.store.files import CONFIG_FILE, read_json, write_json
from nam.store.schema import METRICS_FILE

Metrics = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a training beside the objects it builds, as train.yaml explains them."""

    seed: int
    run_dir: str
    weights_dir: str
    export_dir: str
    resume: str | None
    parts: list[str] | None
    overrides: list[str]


@command("train")
def main(cfg: DictConfig) -> dict[str, Metrics]:
    """Train `cfg.part`, or each of `cfg.parts`. Returns the last logged metrics of each part."""
    hush()
    jobs = [cfg] if cfg.parts is None else [_compose_part(cfg, part) for part in cfg.parts]
    for job in jobs:
        check_training(job)
    claim_run_folder(cfg)
    _refuse_another_job(cfg)
    return {str(job.part.name): train(job, skip_finished=cfg.parts is not None) for job in jobs}


def train(cfg: DictConfig, *, skip_finished: bool = False) -> Metrics:
    """Fit one part, write its weights to `cfg.export_dir` and its metrics to the run folder."""
    finished = Path(cfg.run_dir, METRICS_FILE)
    if skip_finished and finished.is_file():
        if rank() == 0:
            say(f"{cfg.part.name}: finished before, weights in {cfg.export_dir}")
        return read_json(finished)
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    data = build_data(cfg.part.data)
    module = build(cfg.part.module)
    trainer = build(cfg.trainer, callbacks=build_all(cfg.callbacks), logger=build_all(cfg.logger))
    try:
        trainer.fit(module, datamodule=data, ckpt_path=_last_checkpoint(cfg), weights_only=True)
    except UnpicklingError as error:
        line = f"{_checkpoint_path(cfg)} holds more than weights and plain values, and is not opened"
        raise ConfigError(f"resume={cfg.resume}: {line}") from error
    trainer.save_checkpoint(_checkpoint_path(cfg), weights_only=False)  # the optimiser too, to go on from
    metrics = {name: float(value) for name, value in sorted(trainer.callback_metrics.items())}
    if trainer.is_global_zero:
        Path(cfg.export_dir).mkdir(parents=True, exist_ok=True)
        module.export(Path(cfg.export_dir))
        write_json(finished, {name: value if isfinite(value) else None for name, value in metrics.items()})
        say(f"{cfg.part.name}: weights in {cfg.export_dir}, run in {cfg.run_dir}")
    trainer.strategy.barrier("exported")  # the next part reads these weights on every rank
    return metrics


def check_training(cfg: DictConfig) -> None:
    """Refuse a configuration that cannot be run, before anything is loaded. Raises ConfigError."""
    if cfg.part is None:
        options = [name for name in group_options("experiment") if "/" in name]
        raise ConfigError(f"nothing to train: add experiment=NAME, one of {', '.join(options)}")
    plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    check_call(Settings, {name: plain[name] for name in Settings.__dataclass_fields__})  # type: ignore[index,call-overload]
    for key in ("name", "module", "data"):
        if cfg.part.get(key) is None:
            raise ConfigError(f"'part.{key}' is missing from configs/part")
    extra = {"callbacks": None, "logger": None}
    check(cfg.trainer, where="trainer", given=extra)
    for where in ("part", "callbacks", "logger"):
        check(cfg[where], where=where)


def _refuse_another_job(cfg: DictConfig) -> None:
    """A resumed run goes on with the part that it was training."""
    if cfg.resume is None:
        return
    before = read_run_config(Path(cfg.resume, CONFIG_FILE))
    then, now = ([*(job.parts or [])] or job.part.name for job in (before, cfg))
    if then != now:
        raise ConfigError(f"resume={cfg.resume} was training {then}, this command trains {now}")


def _compose_part(cfg: DictConfig, part: str) -> DictConfig:
    """The configuration of one of `cfg.parts`: its own experiment under the same overrides and a folder of
    its own, reading the weights that the parts before it exported."""
    chosen = next(o.partition("=")[2] for o in cfg.overrides if o.startswith("experiment="))
    experiment = f"{chosen.rpartition('/')[0]}/{part}"
    own = ("experiment=", "parts=", "run_dir=", "weights_dir=", "export_dir=", "resume=")
    others = [override for override in cfg.overrides if not override.startswith(own)]
    job = compose("train", [f"experiment={experiment}", *others])
    job.run_dir = os.path.join(cfg.run_dir, part)
    job.export_dir = job.weights_dir = cfg.export_dir
    job.overrides = cfg.overrides
    job.resume = job.run_dir if _checkpoint_path(job).is_file() else None
    return job


def _checkpoint_path(cfg: DictConfig) -> Path:
    return Path(cfg.run_dir, "checkpoints", "last.ckpt")


def _last_checkpoint(cfg: DictConfig) -> str | None:
    """The checkpoint to go on from, None for a new run."""
    if cfg.resume is None:
        return None
    path = _checkpoint_path(cfg)
    if not path.is_file():
        raise ConfigError(f"resume={cfg.resume}: there is no {path} to go on from")
    return str(path)
