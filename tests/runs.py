"""Commands in this process, runs on the tiny random model, and what "the same tables" means."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

from nam.mllm.gill import GILL
from nam.store import Run

#: Prompts of mixed lengths.
PROMPTS = (
    "draw a red horse on the grass .",
    "a cat",
    "what is a boat ?",
    "paint a green tree and a blue car by the sea .",
    "what says meow ?",
    "draw the animal that says meow .",
    "a star at night .",
)


def write_table(path: Path, gill: GILL, prompts: Sequence[str] = PROMPTS) -> Path:
    """A table of prompts whose concept is a word that this random model says."""
    answers = gill.generate(prompt=list(prompts), draw=False, max_new_tokens=8)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "prompt", "concept"])
        for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            words = [word for word in answer.text.split() if word.isalpha()] or ["tree"]
            writer.writerow([f"p{number}", prompt, words[-1]])
    return path


def run_command(main: Callable[[], Any], *arguments: str) -> None:
    """Run a command in this process, as if it had been called with these arguments."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["command.py", *arguments])
        try:
            main()
        finally:
            GlobalHydra.instance().clear()  # Hydra leaves its configuration behind


def exit_of(main: Callable[[], Any], *arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit code of a command that runs in this process, and, if it failed, what it wrote to stderr."""
    capsys.readouterr()
    try:
        run_command(main, *arguments)
    except SystemExit as stop:
        return int(str(stop.code)), capsys.readouterr().err
    return 0, ""


def command_line(gill_folder: Path, table: Path) -> list[str]:
    """attribute.py's arguments for the tiny random model on a table."""
    model = [f"mllm.folder={gill_folder}", "mllm.steps=2", "segmenter=none", "trainer=cpu", "logger=none"]
    return [*model, "data=folder", f"data.source.table={table}", "draw=true", "max_new_tokens=8"]


def assert_same(a: Path, b: Path) -> None:
    """Same rows, texts, statuses and errors; pictures within a grey level; scores within rounding."""
    one, other = Run(a), Run(b)
    assert one.finished
    assert other.finished
    facts = [name for name in one.samples.columns if name not in ("relevance", "mask_score")]
    pd.testing.assert_frame_equal(one.samples[facts], other.samples[facts])
    for name in ("picture", "mask"):
        for path in one.samples[name].dropna():
            mine, theirs = (np.asarray(Image.open(run.image(path)), dtype=int) for run in (one, other))
            assert abs(mine - theirs).max() <= 1, path
    keys = ["sample", "concept", "modality", "method"]
    groups = one.neurons.groupby(keys, sort=False)
    others = other.neurons.groupby(keys, sort=False)
    assert list(groups.groups) == list(others.groups)
    for key, mine in groups:
        theirs = others.get_group(key)
        close = 1e-4 * mine["score"].abs().max()
        assert list(mine["rank"]) == list(theirs["rank"])
        # Sorted scores that agree place by place mean that ranks are swapped between close scores only.
        np.testing.assert_allclose(mine["score"], theirs["score"], rtol=0, atol=close)
        both = mine.merge(theirs, on=["layer", "unit"], suffixes=("", "_other"))
        assert len(both) >= 0.95 * len(mine)
        np.testing.assert_allclose(both["score"], both["score_other"], rtol=0, atol=close)
    assert one.keys == other.keys
    for key in one.keys:
        mean, others_mean = one.scores(*key), other.scores(*key)
        assert mean.count == others_mean.count
        close = 1e-4 * float(abs(mean.scores).max())
        np.testing.assert_allclose(mean.scores, others_mean.scores, rtol=0, atol=close)
