"""`attribute.py evaluate=named`: the words of neurons that a paper names, from a model's weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nam.app.build import build
from nam.app.config import claim_run_folder
from nam.app.quiet import say

if TYPE_CHECKING:
    from nam.evaluate.named import NamedNeurons, Written

#: What `evaluate` builds where this is asked for.
TARGET = "nam.evaluate.named.NamedNeurons"


def run(cfg: DictConfig) -> Path:
    """Check the neurons of `cfg.evaluate` against `cfg.mllm`. Returns the path of what was found."""
    settings: NamedNeurons = build(cfg.evaluate)
    mllm = build(cfg.mllm)
    from nam.app.attribute import manifest_of
    from nam.evaluate.named import shares, verdict
    from nam.store.files import write_json
    from nam.store.schema import MANIFEST_FILE, METRICS_FILE

    written = settings.check(mllm)
    claim_run_folder(cfg)
    by_counting = shares(written)
    sentence = verdict(by_counting)
    folder = Path(cfg.run_dir)
    rows = [
        {
            "concept": one.named.concept,
            "modality": one.named.modality,
            "neuron": str(one.named.neuron),
            "counting": one.counting,
            "expected": list(one.named.words),
            "words": list(one.words),
            "found": list(one.found),
        }
        for one in written
    ]
    write_json(folder / MANIFEST_FILE, {**manifest_of(cfg, mllm, []), "status": "finished"})
    path = folder / METRICS_FILE
    write_json(path, {"verdict": sentence, "share_found": by_counting, "neurons": rows})
    _print(written, sentence, path)
    return path


def _print(written: Sequence[Written], sentence: str, path: Path) -> None:
    table = Table("concept", "neuron", "layers from", "words", "found", title="named neurons")
    for one in written:
        words = (f"[bold]{escape(word)}[/bold]" if word in one.found else escape(word) for word in one.words)
        found = f"{len(one.found)} of {len(one.named.words)}" if one.named.words else "not given"
        concept = f"{one.named.concept} ({one.named.modality})"
        table.add_row(escape(concept), str(one.named.neuron), str(one.counting), ", ".join(words), found)
    Console().print(table)
    say(sentence)
    say(str(path))
