"""`edit.py`: turn one concept into another by changing the value vectors of a few neurons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import lightning as L
from omegaconf import DictConfig, OmegaConf

from nam.app.build import build, build_all, check, check_call
from nam.app.callbacks import Curve
from nam.app.command import command
from nam.app.config import claim_run_folder
from nam.app.quiet import hush
from nam.app.sweep import going_on
from nam.clock import Clock
from nam.errors import ConfigError

if TYPE_CHECKING:
    from nam.editor.delta import Delta
    from nam.editor.select import Selection

#: What a run's results depend on: the same when it is resumed.
SETTLED = (
    *("seed", "mllm", "segmenter", "relevance", "reduction", "editor"),
    *("edit", "prompts", "evaluate", "judge", "clip"),
)


@dataclass(frozen=True, kw_only=True)
class EditSettings:
    """The settings of an edit, as edit.yaml explains them."""

    source: str
    target: str
    modality: str
    k: int
    run: str | None
    method: str | None
    apply: str | None
    margin: float
    select: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class SelectSettings:
    """How neurons are selected, as edit.yaml explains it."""

    by: str
    kind: str | None
    layers: list[int] | None
    contrast: bool
    samples: int
    seed: int


@command("edit")
@going_on
def main(cfg: DictConfig) -> dict[str, Any]:
    """Make (or re-apply) one edit and measure it. Returns its figures."""
    hush()
    saved = read_saved(cfg)
    selection = check_edit(cfg)
    from nam.app.edited import close, look
    from nam.app.make_edit import begin, made_before, make
    from nam.evaluate.judge import load_judge

    L.seed_everything(cfg.seed, workers=True, verbose=False)
    clock = Clock()
    mllm, judge = build(cfg.mllm), load_judge(cfg.judge)
    loggers = build_all(cfg.logger)
    curve = Curve()  # before the callback that saves it in a checkpoint
    callbacks = [curve, *build_all(cfg.callbacks)]
    trainer: L.Trainer = build(cfg.trainer, callbacks=callbacks, logger=loggers)
    mllm.to(trainer.strategy.root_device)
    claim_run_folder(cfg, settled=SETTLED)
    delta = saved or made_before(cfg)
    begin(cfg, mllm)
    before = look(cfg, mllm, judge, clock)
    if delta is None:
        delta = make(cfg, mllm, selection, trainer, curve, clock)
    return close(cfg, mllm, delta, before, judge, loggers, clock)


def read_saved(cfg: DictConfig) -> Delta | None:
    """The delta of `edit.apply`, None without one; what it says of itself is filled into the configuration.

    Raises:
        EditError: there is no such file, or it is no delta.
        ConfigError: it turns another concept than the one that is asked for.
    """
    from nam.editor import read_delta

    if not cfg.edit.apply:
        return None
    delta = read_delta(cfg.edit.apply)
    for key in ("source", "target", "modality"):
        found = delta.manifest.get(key)
        given = None if OmegaConf.is_missing(cfg.edit, key) else cfg.edit[key]
        if found is not None and given not in (None, found) and key != "modality":
            raise ConfigError(f"edit.{key}={given}, but {cfg.edit.apply} has {found!r}: leave edit.{key} out")
        if found is not None:
            cfg.edit[key] = found
    return delta


def check_edit(cfg: DictConfig) -> Selection:
    """Refuse a configuration that cannot be run, before anything is loaded. Raises ConfigError, EditError."""
    from nam.editor.base import Goal
    from nam.editor.select import Selection
    from nam.types import Concept

    for key in ("source", "target"):
        if OmegaConf.is_missing(cfg.edit, key):
            raise ConfigError(f"'edit.{key}' is missing: python edit.py edit.source=cat edit.target=dog")
    plain: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    check_call(EditSettings, plain["edit"], where="edit")
    check_call(SelectSettings, plain["edit"]["select"], where="edit.select")
    for where in ("mllm", "segmenter", "relevance", "editor", "prompts", "evaluate"):
        if cfg[where] is None or "_target_" not in cfg[where]:
            raise ConfigError(f"'{where}' is not chosen: set {where}=NAME, one of configs/{where}")
        check(cfg[where], where=where)
    for where in ("reduction", "logger", "callbacks"):
        check(cfg[where], where=where)
    check(cfg.trainer, where="trainer", given={"callbacks": None, "logger": None})
    if cfg.trainer.devices != 1:
        raise ConfigError("trainer.devices must be 1: an edit is one process's work; sweep with -m")
    build(cfg.editor)
    Goal(Concept(cfg.edit.source), Concept(cfg.edit.target), cfg.edit.modality)
    prompts = build(cfg.prompts)
    for key in ("source", "target"):
        try:
            prompts.of(cfg.edit[key])
        except ConfigError as error:
            raise ConfigError(f"edit.{key}={cfg.edit[key]}: {error}") from error
    _check_ranking(cfg)
    chosen = plain["edit"]["select"]
    return Selection(
        k=cfg.edit.k,
        by=chosen["by"],
        kind=chosen["kind"] or cfg.edit.modality,
        layers=None if chosen["layers"] is None else tuple(chosen["layers"]),
        seed=chosen["seed"],
    )


def _check_ranking(cfg: DictConfig) -> None:
    """Where the ranking of the neurons is to come from. Raises ConfigError, EditError, StoreError."""
    from nam.app.make_edit import method_of
    from nam.editor.ranking import finished_run

    if cfg.edit.select.samples < 1:
        raise ConfigError(f"edit.select.samples must be at least 1, got {cfg.edit.select.samples}")
    methods = [str(name) for name, node in cfg.reduction.items() if node is not None]
    if cfg.edit.apply:
        return
    if cfg.edit.run:
        finished_run(cfg.edit.run, method_of(cfg))
    elif not methods or cfg.edit.method not in (None, *methods):
        raise ConfigError(f"edit.method={cfg.edit.method} is not among reduction={methods}")
