"""`edit.py`: turn one concept into another by changing the value vectors of a few neurons."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from nam.app.build import build, build_all, check, check_call
from nam.app.config import claim_run_folder, command
from nam.app.quiet import hush
from nam.clock import Clock
from nam.errors import ConfigError

if TYPE_CHECKING:
    from nam.editor.delta import Delta
    from nam.editor.select import Selection
    from nam.mllm.base import MLLM
    from nam.types import NeuronSet


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
def main(cfg: DictConfig) -> dict[str, Any]:
    """Make (or re-apply) one edit and measure it. Returns its figures."""
    hush()
    selection = check_edit(cfg)
    from nam.app.edited import close
    from nam.editor import read_delta
    from nam.evaluate.judge import load_judge

    L.seed_everything(cfg.seed, workers=True, verbose=False)
    clock = Clock()
    delta = read_delta(cfg.edit.apply) if cfg.edit.apply else None
    mllm, judge = build(cfg.mllm), load_judge(cfg.judge)
    loggers = build_all(cfg.logger)
    claim_run_folder(cfg)
    if delta is None:
        delta = make(cfg, mllm, selection, loggers, clock)
    return close(cfg, mllm, delta, judge, loggers, clock)


def check_edit(cfg: DictConfig) -> Selection:
    """Refuse a configuration that cannot be run, before anything is loaded. Raises ConfigError."""
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
    chosen = plain["edit"]["select"]
    return Selection(
        k=cfg.edit.k,
        by=chosen["by"],
        kind=chosen["kind"] or cfg.edit.modality,
        layers=None if chosen["layers"] is None else tuple(chosen["layers"]),
        seed=chosen["seed"],
    )


def make(cfg: DictConfig, mllm: MLLM, selection: Selection, loggers: list[Any], clock: Clock) -> Delta:
    """Select neurons, build the cases, run the editor; the delta, not applied."""
    from nam.data.concepts import concept_of
    from nam.editing import delta_of, module_of
    from nam.editor.base import Goal, Problem
    from nam.editor.cases import Pair, build_cases

    trainer: L.Trainer = build(cfg.trainer, callbacks=build_all(cfg.callbacks), logger=loggers)
    device = trainer.strategy.root_device
    mllm.to(device)
    source, target = cfg.edit.source, cfg.edit.target
    with clock("select"):
        chosen = select_neurons(cfg, mllm, selection)
    with clock("cases"):
        prompts = build(cfg.prompts)
        asked = zip(prompts.of(source), prompts.of(target, like=source), strict=True)
        found = build_cases(
            mllm,
            goal := Goal(concept_of(source), concept_of(target), cfg.edit.modality),
            [Pair(one.sample, other.sample) for one, other in asked],
            [one.sample for one in prompts.kept(source)],
            margin=cfg.edit.margin,
        )
    problem = Problem(mllm=mllm, goal=goal, cases=found.cases)
    with clock("edit"):
        module = module_of(problem, build(cfg.editor), chosen, seed=cfg.seed)
        _fit(cfg, trainer, module)
    mllm.to(device)
    manifest = {
        "selection": OmegaConf.to_container(cfg.edit.select, resolve=True),
        "prompts": [one.sample.prompt for one in prompts.of(source)],
        "seed": cfg.seed,
        "overrides": list(cfg.overrides),
    }
    return delta_of(module, found, manifest=manifest)


def select_neurons(cfg: DictConfig, mllm: MLLM, selection: Selection) -> NeuronSet:
    """The neurons by a finished run, or by attributing a few prompts about every thing now."""
    from nam.attribution import Attributor
    from nam.editing import attribute_things
    from nam.editor.ranking import means_of_run, means_of_works, rankings_of
    from nam.editor.select import select

    methods = {str(name): build(node) for name, node in cfg.reduction.items() if node is not None}
    chosen = cfg.edit.select
    method = cfg.edit.method or next(iter(methods), "nam")
    if cfg.edit.run:
        means = means_of_run(cfg.edit.run, method)
    else:
        if method not in methods:
            raise ConfigError(f"edit.method={method} is not among reduction={list(methods)}")
        attributor = Attributor(
            mllm=mllm,
            segmenter=build(cfg.segmenter),
            relevance=build(cfg.relevance),
            methods={method: methods[method]},
        )
        with Console().status("attributing"):
            works = attribute_things(
                attributor,
                concepts=() if chosen.contrast else (cfg.edit.source,),
                samples=chosen.samples,
                seed=cfg.seed,
            )
        means = means_of_works(works, method)
    return select(rankings_of(means, cfg.edit.source, contrast=chosen.contrast), selection)


def _fit(cfg: DictConfig, trainer: L.Trainer, module: Any) -> None:
    checkpoint = Path(cfg.run_dir, "checkpoints", "last.ckpt")
    last = str(checkpoint) if cfg.resume and checkpoint.is_file() else None
    try:
        trainer.fit(module, ckpt_path=last, weights_only=True)
    except SystemExit as stop:  # Lightning's answer to Ctrl-C
        line = f"interrupted: go on with resume={cfg.run_dir}"
        Console(stderr=True).print(line, highlight=False, soft_wrap=True)
        raise SystemExit(130) from stop
    trainer.save_checkpoint(checkpoint, weights_only=False)
