"""`edit.py`: turn one concept into another by changing the value vectors of a few neurons."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import lightning as L
from omegaconf import DictConfig, OmegaConf

from nam.app.build import build, build_all, check, check_call
from nam.app.callbacks import Curve
from nam.app.command import command
from nam.app.config import check_run_folder, claim_run_folder
from nam.app.quiet import hush
from nam.app.sweep import going_on
from nam.clock import Clock
from nam.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from nam.editor.delta import Delta
    from nam.editor.select import Selection
    from nam.mllm.base import MLLM

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


def refuse_other_job(cfg: DictConfig) -> None:
    """Raise ConfigError where the run folder holds an edit of other settings."""
    read_saved(cfg)
    check_run_folder(cfg, settled=SETTLED)


@command("edit", check=refuse_other_job)
@going_on
def main(cfg: DictConfig) -> dict[str, Any]:
    """Make (or re-apply) one edit and measure it. Returns its figures."""
    hush()
    saved = read_saved(cfg)
    selection = check_edit(cfg)
    from nam.app.edit_neurons import refuse_misfit
    from nam.app.edited import close, load_markers, look
    from nam.app.make_edit import begin, made_before, make

    L.seed_everything(cfg.seed, workers=True, verbose=False)
    clock = Clock()
    markers = load_markers(cfg)
    mllm = build(cfg.mllm)
    loggers = build_all(cfg.logger)
    curve = Curve()  # before the callback that saves it in a checkpoint
    callbacks = [curve, *build_all(cfg.callbacks)]
    trainer: L.Trainer = build(cfg.trainer, callbacks=callbacks, logger=loggers)
    mllm.to(trainer.strategy.root_device)
    check_place(mllm, trainer.strategy.root_device)
    refuse_misfit(cfg, mllm, selection, saved)
    claim_run_folder(cfg, settled=SETTLED)
    delta = saved or made_before(cfg)
    begin(cfg, mllm, saved)
    before = look(cfg, mllm, markers, clock)
    if delta is None:
        delta = make(cfg, mllm, selection, trainer, curve, clock)
    return close(cfg, mllm, delta, before, markers, loggers, clock)


def check_place(mllm: MLLM, device: torch.device) -> None:
    """What is edited is computed where the trainer is: a model that is spread does not go there by itself.

    Raises:
        ConfigError: its first card is another one.
    """
    if mllm.spread is not None and mllm.device != device:
        raise ConfigError(
            f"mllm.device: the model's first card is {mllm.device}, the trainer's device is {device}: name "
            "that one first, or choose another trainer"
        )


def read_saved(cfg: DictConfig) -> Delta | None:
    """The delta of `edit.apply`, None without one; what it says of itself is filled into the configuration.

    Raises:
        EditError: there is no such file, or it is no delta.
        ConfigError: it turns another concept than the one that is asked for, or in another modality.
    """
    from nam.editor import EditError, read_delta

    for where in ("edit", "edit.select"):
        if not isinstance(OmegaConf.select(cfg, where), DictConfig):
            raise ConfigError(f"{where} holds settings: leave {where}=... out")
    if not cfg.edit.apply:
        return None
    delta = read_delta(cfg.edit.apply)
    asked = {str(override).partition("=")[0] for override in cfg.overrides}
    for key in ("source", "target", "modality"):
        found = delta.manifest.get(key)
        if found is None:
            continue
        if "$" in found:  # nothing in a file may name what the configuration then looks up
            raise EditError(f"{cfg.edit.apply}: its manifest is damaged: {key} is {found!r}")
        free = OmegaConf.is_missing(cfg.edit, key) or (key == "modality" and f"edit.{key}" not in asked)
        if not free and cfg.edit[key] != found:
            raise ConfigError(
                f"edit.{key}={cfg.edit[key]}, but {cfg.edit.apply} has {found!r}: leave edit.{key} out"
            )
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
            files = where not in ("prompts", "evaluate")  # those stand in edit.yaml itself
            hint = f"set {where}=NAME, one of configs/{where}" if files else f"leave {where}=... out"
            raise ConfigError(f"'{where}' is not chosen: {hint}")
        check(cfg[where], where=where)
    for where in ("reduction", "logger", "callbacks"):
        check(cfg[where], where=where)
    check(cfg.trainer, where="trainer", given={"callbacks": None, "logger": None})
    if cfg.trainer.devices != 1:
        raise ConfigError("trainer.devices must be 1: an edit is one process's work; sweep with -m")
    build(cfg.editor)
    build(cfg.evaluate)
    if not 0 <= cfg.edit.margin < math.inf:
        raise ConfigError(f"edit.margin must be at least 0, and finite, got {cfg.edit.margin}")
    Goal(Concept(cfg.edit.source), Concept(cfg.edit.target), cfg.edit.modality)
    prompts = build(cfg.prompts)
    for key in ("source", "target"):
        try:
            prompts.of(cfg.edit[key])
        except ConfigError as error:
            raise ConfigError(f"edit.{key}={cfg.edit[key]}: {error}") from error
    chosen = plain["edit"]["select"]
    selection = Selection(
        k=cfg.edit.k,
        by=chosen["by"],
        kind=chosen["kind"] or cfg.edit.modality,
        layers=None if chosen["layers"] is None else tuple(chosen["layers"]),
        seed=chosen["seed"],
    )
    _check_ranking(cfg, selection)
    return selection


def _check_ranking(cfg: DictConfig, selection: Selection) -> None:
    """Where the ranking of the neurons is to come from. Raises ConfigError, EditError, StoreError."""
    from nam.app.edit_neurons import method_of
    from nam.editor.ranking import finished_run, require_scores

    if cfg.edit.select.samples < 1:
        raise ConfigError(f"edit.select.samples must be at least 1, got {cfg.edit.select.samples}")
    methods = [str(name) for name, node in cfg.reduction.items() if node is not None]
    if cfg.edit.apply:
        return
    if cfg.edit.run:
        run = finished_run(cfg.edit.run, method_of(cfg))
        if selection.by != "layer":
            require_scores(run, method_of(cfg), cfg.edit.source, selection.modalities)
    elif not methods or cfg.edit.method not in (None, *methods):
        raise ConfigError(f"edit.method={cfg.edit.method} is not among reduction={methods}")
