"""A run holds a batch in memory, not what it has done so far."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path
from typing import Any

import pytest

from nam.app.attribute import main
from nam.mllm.gill import GILL
from nam.modules import attribution
from nam.modules.attribution import AttributionModule
from tests.app.killing import run
from tests.runs import PROMPTS, command_line, run_command, write_table


def test_what_was_found_is_let_go_of_when_it_is_written(
    tmp_path: Path, gill_folder: Path, shared_gill: GILL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NAM_RUN_STAMP", "now")
    table = write_table(tmp_path / "table.csv", shared_gill)
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    counts: list[int] = []
    made, step = attribution.result_of, AttributionModule.predict_step

    def kept(work: Any) -> Any:
        result = made(work)
        alive.update((work, result, work.generation, *result.scores))
        return result

    def watched(module: AttributionModule, batch: list[Any], index: int) -> Any:
        gc.collect()
        counts.append(len(alive))
        return step(module, batch, index)

    monkeypatch.setattr(attribution, "result_of", kept)
    monkeypatch.setattr(AttributionModule, "predict_step", watched)
    arguments = [*command_line(gill_folder, table), "data.batch_size=1", "run_dir=out"]
    run_command(main, *arguments)
    assert len(counts) == len(PROMPTS)
    assert counts[0] == 0
    assert max(counts) <= 5  # of the batch before at most: its item, answer, result and two scores


@pytest.mark.slow
def test_ten_times_the_samples_take_the_same_memory(tmp_path: Path) -> None:
    peaks = {}
    for times in (1, 10):
        folder = tmp_path / str(times)
        asked = [f"data.source.{kind}={count * times}" for kind, count in (("draw", 8), ("riddle", 8))]
        others = [f"data.source.{kind}=0" for kind in ("draw_two", "draw_riddle", "caption")]
        cheap = ["mllm.steps=1", "relevance=last", "segmenter=none", "trainer=cpu", "logger=none"]
        mine = [*asked, *others, *cheap, "data.source.concepts=[]", f"run_dir={folder}"]
        run(mine, folder=folder, longest=1800)
        metrics = json.loads((folder / "metrics.json").read_text())
        assert metrics["samples"] == 13 * 16 * times
        peaks[times] = metrics["peak_memory"]["host"]
    assert peaks[10] < 1.1 * peaks[1], peaks
