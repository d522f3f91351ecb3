"""Processes of one run do not wait for each other within the loop, and write no file in common."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from torch.distributed import default_pg_timeout, distributed_c10d

from nam.app.attribute import main
from nam.app.build import build
from nam.app.config import compose
from nam.errors import ConfigError
from nam.mllm.gill import GILL
from nam.modules.attribution import AttributionModule
from nam.store import Run, RunWriter
from tests.runs import PROMPTS, command_line, run_command, write_table
from tests.store.results import MANIFEST, result, words

#: Operations of torch.distributed in which every process has to take part.
COLLECTIVE = (
    *("all_gather", "all_gather_into_tensor", "all_gather_object", "all_reduce", "all_to_all", "barrier"),
    *("broadcast", "broadcast_object_list", "gather", "gather_object", "monitored_barrier", "recv", "reduce"),
    *("reduce_scatter", "scatter", "send"),
)


def test_no_process_waits_for_another_within_the_loop(
    tmp_path: Path, gill_folder: Path, shared_gill: GILL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process under DDP asks for the operations that several would."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NAM_RUN_STAMP", "now")
    table = write_table(tmp_path / "table.csv", shared_gill)
    calls: list[str] = []
    seen: list[int] = []
    step = AttributionModule.predict_step

    def noted(name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any, **named: Any) -> Any:
            calls.append(name)
            return operation(*given, **named)

        return run

    def watched(module: AttributionModule, batch: Any, index: int) -> Any:
        seen.append(len(calls))
        return step(module, batch, index)

    for name in COLLECTIVE:
        made = noted(name, getattr(distributed_c10d, name))
        for module in (dist, distributed_c10d):
            monkeypatch.setattr(module, name, made)
    monkeypatch.setattr(AttributionModule, "predict_step", watched)
    mine = [argument for argument in command_line(gill_folder, table) if not argument.startswith("trainer")]
    ddp = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=1"]
    try:
        with patch.dict(os.environ):  # where Lightning leaves addresses and ranks
            run_command(main, *mine, *ddp, "data.batch_size=1", "run_dir=out")
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    assert len(seen) == len(PROMPTS)
    assert set(seen) == {seen[0]}  # none between the first batch and the last
    assert 0 < seen[0] < len(calls)  # but before and after
    assert Run("out").finished


def test_processes_wait_for_each_other_longer_than_torch_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAM_RUN_STAMP", "now")
    strategy = build(compose("attribute", ["trainer=ddp"]).trainer.strategy)
    assert isinstance(strategy, DDPStrategy)
    assert strategy._timeout == timedelta(hours=24) > default_pg_timeout
    with pytest.raises(ConfigError, match=r"trainer\.strategy\.wait must be more than 0 hours, got 0"):
        build(compose("attribute", ["trainer=ddp", "trainer.strategy.wait=0"]).trainer.strategy)


def test_processes_write_no_file_in_common(tmp_path: Path) -> None:
    written = []
    for rank in (0, 1, 10):
        with RunWriter(tmp_path / str(rank), manifest=MANIFEST, words=words, rank=rank) as writer:
            for index in range(rank, 120, 11):
                writer.add(result(index))
                writer.flush()
        files = [path for path in writer.folder.rglob("*") if path.is_file()]
        written.append({path.relative_to(writer.folder) for path in files})
    assert all(len(names) > 20 for names in written)
    assert not written[0] & written[1]
    assert not (written[0] | written[1]) & written[2]
