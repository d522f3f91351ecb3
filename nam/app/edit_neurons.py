"""Which neurons `edit.py` changes: by a finished run, or by attributing a few prompts, once for a sweep."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from nam.app.build import build
from nam.app.sweep import SWEEPING

if TYPE_CHECKING:
    from nam.editor.delta import Delta
    from nam.editor.ranking import Means
    from nam.editor.select import Selection
    from nam.mllm.base import MLLM
    from nam.types import NeuronSet

#: Where the jobs of a sweep keep what they share, inside the sweep's folder.
SHARED = "attribution"


def method_of(cfg: DictConfig) -> str:
    """The method whose scores rank the neurons."""
    methods = [str(name) for name, node in cfg.reduction.items() if node is not None]
    return str(cfg.edit.method or next(iter(methods), "nam"))


def refuse_misfit(cfg: DictConfig, mllm: MLLM, selection: Selection, saved: Delta | None) -> None:
    """Refuse what the loaded model cannot do before anything is asked of it.

    Raises:
        EditError: a saved delta does not fit it, it has not so many neurons, or the attribution run is of
            another model.
    """
    from nam.editor.ranking import finished_run
    from nam.editor.select import refuse_impossible, shape_of

    if saved is not None:
        saved.check(mllm)
        return
    refuse_impossible(shape_of(mllm), selection)
    if cfg.edit.run:
        finished_run(cfg.edit.run, method_of(cfg), mllm=mllm)


def select_neurons(cfg: DictConfig, mllm: MLLM, selection: Selection) -> NeuronSet:
    """The neurons by a finished run, or by attributing a few prompts about every thing now."""
    from nam.editor.ranking import rankings_of
    from nam.editor.select import layer_neurons, select, shape_of

    if selection.by == "layer":
        return layer_neurons(shape_of(mllm), selection.layers)
    rankings = rankings_of(_means(cfg, mllm), cfg.edit.source, contrast=cfg.edit.select.contrast)
    return select(rankings, selection)


def facts_of(cfg: DictConfig, selection: Selection) -> dict[str, Any]:
    """How `select_neurons` has selected, as the delta's manifest says it."""
    chosen = cfg.edit.select
    samples = None if cfg.edit.run else chosen.samples
    return selection.facts(method_of(cfg), contrast=chosen.contrast, samples=samples)


def _means(cfg: DictConfig, mllm: MLLM) -> Means:
    from nam.editor.ranking import means_of_run, read_means, write_means

    if cfg.edit.run:
        return means_of_run(cfg.edit.run, method_of(cfg))
    if SWEEPING not in os.environ:
        return _attributed(cfg, mllm)
    path = Path(cfg.run_dir).parent / SHARED / f"{_name(cfg, mllm)}.safetensors"
    if not path.is_file():
        path.parent.mkdir(exist_ok=True)
        write_means(_attributed(cfg, mllm), path)
    return read_means(path)


def _attributed(cfg: DictConfig, mllm: MLLM) -> Means:
    from nam.app.attributor import attributor_of
    from nam.editing import attribute_things
    from nam.editor.ranking import means_of_works

    method, chosen = method_of(cfg), cfg.edit.select
    attributor = attributor_of(cfg, mllm=mllm, methods={method: build(cfg.reduction[method])})
    with Console().status("attributing"):
        works = attribute_things(attributor, concepts=_concepts(cfg), samples=chosen.samples, seed=cfg.seed)
    return means_of_works(works, method)


def _concepts(cfg: DictConfig) -> tuple[str, ...]:
    """Of what prompts are attributed; empty for everything, which a contrast needs."""
    return () if cfg.edit.select.contrast else (cfg.edit.source,)


def _name(cfg: DictConfig, mllm: MLLM) -> str:
    """A name that two jobs share only where they would find the same scores."""
    from nam.mllm.fingerprint import fingerprint

    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    method = method_of(cfg)
    facts = [
        *(fingerprint(mllm), method, plain["reduction"][method]),
        *(plain[key] for key in ("mllm", "segmenter", "relevance", "seed")),
        *(plain["edit"]["select"]["samples"], _concepts(cfg)),
    ]
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=8).hexdigest()
