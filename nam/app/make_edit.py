"""How `edit.py` makes an edit: select neurons, build the cases, run the editor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import DictConfig
from rich.console import Console

from nam.app.build import build
from nam.app.callbacks import Curve
from nam.app.command import INTERRUPTED, TERMINATED
from nam.app.edit_neurons import facts_of, method_of, select_neurons
from nam.app.quiet import say
from nam.clock import Clock
from nam.errors import ConfigError
from nam.store.schema import MANIFEST_FILE

if TYPE_CHECKING:
    from nam.editor.delta import Delta
    from nam.editor.select import Selection
    from nam.mllm.base import MLLM

#: Files of a run folder: the delta, and how it came about.
PATCH_FILE, CURVE_FILE = "patch.safetensors", "curve.json"


def made_before(cfg: DictConfig) -> Delta | None:
    """The delta that an interrupted run has made already; None where it has not.

    Raises:
        ConfigError: the run has come to its end.
    """
    from nam.editor import read_delta
    from nam.store.claim import is_finished

    folder = Path(cfg.run_dir)
    if not cfg.resume:
        return None
    if is_finished(folder):
        raise ConfigError(
            f"resume={cfg.resume}: the edit is finished, there is nothing to resume; "
            f"edit.apply={folder / PATCH_FILE} measures it anew"
        )
    return read_delta(folder / PATCH_FILE) if (folder / PATCH_FILE).is_file() else None


def begin(cfg: DictConfig, mllm: MLLM, saved: Delta | None) -> None:
    """Write manifest.json, what is known at the start; a resumed run has it.

    Args:
        cfg: The configuration.
        mllm: The model.
        saved: The delta that is read from a file instead of made.
    """
    from nam.app.attribute import manifest_of
    from nam.store.files import write_json

    path = Path(cfg.run_dir, MANIFEST_FILE)
    if not path.is_file():
        editor = build(cfg.editor)
        ranked = editor.selects and cfg.edit.select.by != "layer"
        made: dict[str, Any] = {"editor": editor.name, "method": method_of(cfg) if ranked else None}
        if saved is not None:
            made = {key: saved.manifest.get(key) for key in made}
        methods = [str(made["method"])] if made["method"] else []
        write_json(path, {**manifest_of(cfg, mllm, methods), "editor": made["editor"]})


def make(
    cfg: DictConfig, mllm: MLLM, selection: Selection, trainer: L.Trainer, curve: Curve, clock: Clock
) -> Delta:
    """Select neurons, build the cases, run the editor; `curve` is among the trainer's callbacks. The delta is
    saved, and not applied."""
    from nam.data.concepts import concept_of
    from nam.editing import delta_of, module_of
    from nam.editor.base import Goal, Problem
    from nam.editor.cases import Pair
    from nam.editor.token_cases import cases_of
    from nam.store.files import write_json
    from nam.types import NeuronSet

    source, target = cfg.edit.source, cfg.edit.target
    editor = build(cfg.editor)
    with clock("select"):
        chosen = select_neurons(cfg, mllm, selection) if editor.selects else NeuronSet(())
    with clock("cases"), Console().status("what the model should say and draw"):
        prompts = build(cfg.prompts)
        asked = zip(prompts.of(source), prompts.of(target, like=source), strict=True)
        pairs = [Pair(one.sample, other.sample) for one, other in asked]
        found = cases_of(
            mllm,
            goal := Goal(concept_of(source), concept_of(target), cfg.edit.modality),
            pairs,
            [one.sample for one in prompts.kept(source)],
            margin=cfg.edit.margin,
        )
    problem = Problem(mllm=mllm, goal=goal, cases=found.cases)
    with clock("edit"):
        module = module_of(problem, editor, chosen, seed=cfg.seed)
        _fit(cfg, trainer, module)
    mllm.to(trainer.strategy.root_device)
    selected = facts_of(cfg, selection) if editor.selects else {}
    delta = delta_of(module, found, pairs=pairs, manifest={**selected, "overrides": list(cfg.overrides)})
    write_json(Path(cfg.run_dir, CURVE_FILE), {"steps": curve.steps})
    delta.save(Path(cfg.run_dir, PATCH_FILE))
    return delta


def _fit(cfg: DictConfig, trainer: L.Trainer, module: Any) -> None:
    checkpoint = Path(cfg.run_dir, "checkpoints", "last.ckpt")
    last = str(checkpoint) if cfg.resume and checkpoint.is_file() else None
    try:
        trainer.fit(module, ckpt_path=last, weights_only=True)
    except SystemExit as stop:  # Lightning's answer to Ctrl-C and to SIGTERM
        killed = isinstance(stop, SIGTERMException)
        line = f"{'terminated' if killed else 'interrupted'}: go on with resume={cfg.run_dir}"
        say(line, error=True)
        raise SystemExit(TERMINATED if killed else INTERRUPTED) from stop
