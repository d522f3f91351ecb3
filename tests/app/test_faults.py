"""A model whose forward pass fails: for batches that are too large, and for one sample whatever its batch."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nam.app import attribute
from nam.halving import Limit, halve
from nam.mllm.gill import GILL
from nam.modules.attribution import AttributionModule
from nam.store import Run
from tests.runs import PROMPTS, assert_same, command_line, run_command, write_table

Fault = Callable[[GILL], None]


@pytest.fixture
def run(
    tmp_path: Path, gill_folder: Path, shared_gill: GILL, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """Run the command on a model with a fault; gives the run folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NAM_RUN_STAMP", "now")
    table = write_table(tmp_path / "table.csv", shared_gill)
    made = attribute.module_of

    def run(folder: str, fault: Fault | None = None, *overrides: str) -> Path:
        def faulty(cfg: Any) -> AttributionModule:
            module = made(cfg)
            if fault:
                fault(module.mllm)  # type: ignore[arg-type]
            return module

        place = [] if any(one.startswith("resume=") for one in overrides) else [f"run_dir={folder}"]
        mine = ["data.batch_size=4", "reduction=[nam,gradxact]", *place, *overrides]
        with monkeypatch.context() as patch:
            patch.setattr(attribute, "module_of", faulty)
            run_command(attribute.main, *command_line(gill_folder, table), *mine)
        return Path(folder)

    return run


def on_forward(model: GILL, look: Callable[[torch.Tensor], None]) -> None:
    """Have `look` see what the language model reads, (B, T, H), before it does."""

    def hook(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        look(named["inputs_embeds"])

    model.language_model.model.decoder.register_forward_pre_hook(hook, with_kwargs=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, gill_folder: Path, shared_gill: GILL) -> Path:
    """An undisturbed run."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NAM_RUN_STAMP", "now")
        table = write_table(folder / "table.csv", shared_gill)
        mine = ["data.batch_size=4", "reduction=[nam,gradxact]", f"run_dir={folder / 'out'}"]
        run_command(attribute.main, *command_line(gill_folder, table), *mine)
    return folder / "out"


@pytest.mark.parametrize(("words", "pictures", "record"), [(2, 1, True), (1, 2, False)])
def test_out_of_memory_halves_the_batch_and_changes_nothing(
    words: int, pictures: int, record: bool, run: Callable[..., Path], whole: Path
) -> None:
    """Neither the language model nor the picture generator can take a whole batch."""
    seen: list[int] = []

    def small(model: GILL) -> None:
        def read(embeds: torch.Tensor) -> None:
            seen.append(len(embeds))
            if len(embeds) > words:
                raise torch.OutOfMemoryError(f"CUDA out of memory with {len(embeds)}")

        def drawn(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            if len(given[0] if given else named["sample"]) > 2 * pictures:  # with and without guidance
                raise torch.OutOfMemoryError("CUDA out of memory")

        on_forward(model, read)
        unet = model.diffusion.parts.get("unet", like=torch.zeros(1))
        unet.register_forward_pre_hook(drawn, with_kwargs=True)

    broken = run("broken", small, f"record={record}")
    assert max(seen) >= 4
    log = (broken / "attribute.log").read_text()
    for size in (4, 2):  # the smaller of the two limits is found by the way, each step once
        line = f"out of memory in stage 'generate' with {size} at once: going on with {size // 2};"
        assert log.count(line) == 1
    assert_same(whole, broken)


def test_a_poisoned_sample_is_an_error_row_and_disturbs_no_other(
    run: Callable[..., Path], whole: Path
) -> None:
    def poisoned(model: GILL) -> None:
        token = model.codec.tokenizer.convert_tokens_to_ids("paint")
        poison = model.language_model.get_input_embeddings().weight[token]

        def look(embeds: torch.Tensor) -> None:
            if (embeds == poison).all(-1).any():
                raise RuntimeError("poisoned\nby 'paint'")

        on_forward(model, look)

    broken, others = Run(run("broken", poisoned)), Run(whole)
    bad = [number for number, prompt in enumerate(PROMPTS) if "paint" in prompt]
    assert bad == [3]
    rows = broken.samples
    assert list(rows["id"]) == list(others.samples["id"])
    assert list(rows["status"] == "error") == [number in bad for number in range(len(PROMPTS))]
    assert rows["error"][3] == "RuntimeError: poisoned"
    kept = others.neurons[others.neurons["sample"] != "p3"].reset_index(drop=True)
    assert list(broken.neurons["sample"]) == list(kept["sample"])
    close = 1e-4 * float(kept["score"].abs().max())
    assert abs(broken.neurons["score"] - kept["score"]).max() <= close


def test_a_lost_device_ends_the_run_and_blames_no_sample(
    run: Callable[..., Path], whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[int] = []

    def lost(model: GILL) -> None:
        def look(embeds: torch.Tensor) -> None:
            seen.append(len(embeds))
            if len(Run("broken").done) >= 4:
                raise RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors might be")

        on_forward(model, look)

    with pytest.raises(SystemExit) as stop:
        run("broken", lost)
    assert stop.value.code == 2
    assert "error: the accelerator is lost (RuntimeError: CUDA error: device-side" in capsys.readouterr().err
    broken = Run("broken")
    assert (len(broken.samples), set(broken.samples["status"])) == (4, {"ok"})
    assert_same(whole, run("broken", None, "resume=broken"))


def test_later_batches_start_with_what_has_fitted(caplog: pytest.LogCaptureFixture) -> None:
    tried: list[int] = []
    blamed: dict[int, str] = {}

    def step(things: list[int]) -> None:
        tried.append(len(things))
        if len(things) > 3:
            raise MemoryError
        if 5 in things:
            raise ValueError("bad")

    limit = Limit("step")
    with caplog.at_level(logging.WARNING, "nam.halving"):
        for _ in range(2):
            halve(step, range(8), lambda thing, why: blamed.update({thing: why}), limit)
    # 8 and 4 are too many, once; then pairs; of the pair with 5, each by itself.
    assert tried == [8, 4, 2, 2, 2, 1, 1, 2, 2, 2, 2, 1, 1, 2]
    assert blamed == {5: "ValueError: bad"}
    assert limit.most == 2
    assert sum("out of memory in stage 'step'" in record.message for record in caplog.records) == 2


def test_one_sample_that_is_too_large_for_the_memory_is_an_error_of_its_own() -> None:
    blamed: dict[int, str] = {}

    def step(things: list[int]) -> None:
        if 2 in things:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to")

    limit = Limit("step")
    halve(step, [1, 2], lambda thing, why: blamed.update({thing: why}), limit)
    assert list(blamed) == [2]
    assert "can't allocate memory" in blamed[2]
    assert limit.most == 1
