"""Runs of edit.py on the tiny random model, whose pictures show whatever its judge is told to see."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from nam.app.edit import main
from nam.evaluate.judge import Verdict
from tests.runs import run_command

#: A command line that is done in seconds.
FEW = [
    *(
        "edit.source=cat",
        "edit.target=dog",
        "edit.k=4",
        "edit.select.samples=1",
        "edit.select.contrast=false",
    ),
    *(
        "evaluate.draw=2",
        "evaluate.seeds=1",
        "evaluate.riddles=1",
        "evaluate.captions=1",
        "evaluate.others=1",
    ),
    *("prompts.draw=4", "prompts.caption=0", "prompts.others=1", "prompts.others_caption=0"),
    *("prompts.others_riddle=0", "editor.steps=3", "trainer=cpu"),
]


def seeing(*things: str) -> Callable[[list[Image.Image]], list[Verdict]]:
    """A judge that sees the same red things on the grass in every picture."""
    verdict = Verdict(dict.fromkeys(things, ("red", 0.9)), "grass", 0.9)
    return lambda images: [verdict] * len(images)


@pytest.fixture
def edit(tmp_path: Path, gill_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Run the command in this process; gives the run folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NAM_RUN_STAMP", "now")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setattr("nam.evaluate.judge.load_judge", lambda folder: seeing("cat", "dog"))
    model = [f"mllm.folder={gill_folder}", "mllm.steps=1", f"clip={gill_folder}", "segmenter=none"]

    def run(folder: str, *overrides: str, few: Any = FEW) -> Path:
        keys = {o.partition("=")[0] for o in overrides}
        place = [] if keys & {"-m", "resume", "run_dir"} else [f"run_dir={folder}"]
        given = [one for one in [*model, *few, "logger=none"] if one.partition("=")[0] not in keys]
        run_command(main, *given, *place, *overrides)
        return Path(folder)

    return run
