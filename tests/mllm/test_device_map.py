"""Which layer goes to which device: the plan, what cannot be, and the job where layers rest in memory."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import nn

import nam
from nam.app.attribute import main
from nam.app.config import check_run_folder
from nam.app.settings import check_spread
from nam.errors import ConfigError
from nam.mllm.device_map import Spread, check_device, planned, share_out
from nam.mllm.spread import placed
from nam.store import Run
from tests.devices import CARDS, CPU, devices
from tests.families import build
from tests.runs import assert_same, run_command

__all__ = ["devices"]


# --- which layer goes where ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "room", "expected"),
    [
        ([1] * 8, [10, 10], [0] * 4 + [1] * 4),
        ([1] * 8, [4, 12], [0] * 2 + [1] * 6),
        ([1] * 8, [5, 3], [0] * 5 + [1] * 3),
        ([1] * 8, [2, 3], [0] * 2 + [1] * 3 + [None] * 3),
        ([3] * 4, [5, 7], [0] + [1] * 2 + [None]),
        ([4, 1, 1], [0, 9], [1] * 3),
        ([1, 1], [0], [None] * 2),
    ],
)
def test_layers_are_shared_out_by_the_room_there_is(
    sizes: list[int], room: list[int], expected: list[int | None]
) -> None:
    assert share_out(sizes, room) == expected


@given(st.lists(st.integers(1, 9), min_size=1, max_size=40), st.lists(st.integers(0, 99), min_size=1))
def test_no_device_gets_more_than_it_has_room_for(sizes: list[int], room: list[int]) -> None:
    found = share_out(sizes, room)
    assert len(found) == len(sizes)
    for place, there in enumerate(room):
        assert sum(size for size, at in zip(sizes, found, strict=True) if at == place) <= there
    order = [len(room) if at is None else at for at in found]
    assert order == sorted(order)
    # Nothing rests that the card with the most room could hold with all that it has.
    resting = [size for size, at in zip(sizes, found, strict=True) if at is None]
    assert not resting or sum(sizes) > max(room)


@pytest.mark.usefixtures("devices")
def test_auto_leaves_room_for_what_is_no_layer(gill_folder: Path) -> None:
    model = build("llama", gill_folder)
    lm = model.language_model
    layer = lm.get_decoder().layers[0]
    one = sum(tensor.nbytes for tensor in (*layer.parameters(), *layer.buffers()))
    other = sum(tensor.nbytes for tensor in (*lm.parameters(), *lm.buffers())) - 3 * one
    for extra, expected in ((0, (CARDS[1], CARDS[1], None)), (one, (CARDS[0], CARDS[1], CARDS[1]))):
        limits = {0: f"{(other + extra + 9) / 1e6}MB", "cuda:1": (2 * one + 9) / 1e9}
        plan = planned(lm, device="auto", max_memory=limits)
        assert plan == Spread(CARDS[0], expected)
    with pytest.raises(ConfigError, match=r"no layer take 2.1 GB, cuda:0 has room for 1.1 GB"):
        planned(lm, device="auto", max_memory={0: "1GiB"}, other=2 * 2**30)
    limits[0] = "1GB"  # other parts than the language model's count too
    assert placed(model, device="auto", max_memory=limits).spread == Spread(CARDS[0], (CARDS[0],) * 3)
    assert (
        str(Spread(CPU, (CARDS[1], None, CARDS[2])))
        == "1 layers on cuda:1, 1 layers in memory, 1 layers on cuda:2"
    )


def test_auto_takes_what_is_free_but_for_a_share(monkeypatch: pytest.MonkeyPatch) -> None:
    free = (12 * 10**9, 48 * 10**9)
    cards = SimpleNamespace(
        is_available=lambda: True, device_count=lambda: 2, mem_get_info=lambda card: (free[card], 10**12)
    )
    monkeypatch.setattr(torch, "get_device_module", lambda kind: cards)
    with torch.device("meta"):  # 2 GB a layer
        layers = nn.ModuleList(nn.Linear(10**5, 5 * 10**3, bias=False) for _ in range(25))
    decoder: Any = nn.Module()
    decoder.layers, decoder.get_decoder = layers, lambda: decoder
    # 0.8 of 12 GB less 1 hold 4 layers, 48 GB less 6 hold 21.
    for other, first, rest in ((10**9, 4, 0), (3 * 10**9, 3, 1)):
        plan = planned(decoder, device="auto", max_memory=None, other=other)
        assert plan == Spread(CARDS[0], (*[CARDS[0]] * first, *[CARDS[1]] * 21, *[None] * rest))


@pytest.mark.parametrize(
    ("device", "max_memory", "message"),
    [
        ("auto", None, r"mllm.device=auto spreads the layers over cards, and none was found"),
        ("cuda:0", {0: "9GiB"}, r"mllm.max_memory is for mllm.device=auto, got mllm.device=cuda:0"),
        ("gpu", None, r"mllm.device='gpu' cannot be used"),
        ({"cpu": 2}, None, r"mllm.device=\{'cpu': 2\} puts no layer on a card: set mllm.device=cpu"),
        ({"disk": 2}, None, r"layers rest in the machine's memory \(cpu\), not on a disk"),
        ({"gpu": 2}, None, r"mllm.device: 'gpu' is no device"),
        ({0: 1.5}, None, r"mllm.device.0"),
        ({0: 2}, None, r"mllm.device='cuda:0' cannot be used"),
        ("auto", "9GiB", r"mllm.max_memory must name cards, such as \{0:20GiB\}, got '9GiB'"),
        (0, None, r"mllm.device must be a device, auto or layers by device, got 0"),
        ("auto", {"cpu": 30}, r"mllm.max_memory names cards, such as"),
        (
            "auto",
            {0: "9 apples"},
            r"mllm.max_memory.0 must be a size such as 20GiB or 20 \(GB\), got '9 apples'",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_the_model_is_read(
    device: Any, max_memory: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_device(device, max_memory=max_memory)
    with pytest.raises(ConfigError, match=message):
        nam.load("vlm", id="/no/such/model", device=device, max_memory=max_memory)


def test_a_wrong_number_of_layers_is_refused(gill_folder: Path) -> None:
    model = build("llama", gill_folder)
    with pytest.raises(ConfigError, match="places 5 layers, the language model has 3"):
        placed(model, device={"cpu:0": 2, "cpu": 3})


# --- the whole job ------------------------------------------------------------------------------------------


def test_the_whole_job_runs_with_layers_that_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    none = [f"data.source.{name}=0" for name in ("draw_two", "draw_riddle", "riddle", "same", "caption")]
    few = ["data.source.concepts=[cat]", "data.source.draw=2", "max_new_tokens=2", "draw=true", *none]
    settings = ["mllm=gill/tiny_random", "mllm.steps=1", "segmenter=none", "trainer=cpu", "logger=none", *few]
    for name, device in (("whole", "cpu"), ("spread", r"{cpu\:0:1,cpu:1}")):
        monkeypatch.setenv("NAM_RUN_STAMP", name)
        arguments = [
            *settings,
            "reduction=[nam,gradxact]",
            f"mllm.device={device}",
            f"run_dir={tmp_path / name}",
        ]
        run_command(main, *arguments)
    assert not Run(tmp_path / "whole").neurons.empty
    assert_same(tmp_path / "whole", tmp_path / "spread")


def test_a_resumed_run_may_use_other_devices(tmp_path: Path) -> None:
    folder, mllm = str(tmp_path), {"device": "cpu", "dtype": "float32"}
    started: dict[str, Any] = {"resume": folder, "run_dir": folder, "mllm": mllm}
    OmegaConf.save(OmegaConf.create(started), tmp_path / "config.yaml")
    for device in ("auto", {0: 1, "cpu": 1}):
        now = {"device": device, "max_memory": {0: "9GiB"}, "dtype": "float32"}
        check_run_folder(OmegaConf.create(started | {"mllm": now}), settled=["mllm"])
    other = OmegaConf.create(started | {"mllm": mllm | {"dtype": "bfloat16"}})
    with pytest.raises(ConfigError, match=r"was started with mllm\.dtype=float32, not bfloat16"):
        check_run_folder(other, settled=["mllm"])


@pytest.mark.parametrize("trainer", [{"devices": 2}, {"devices": "auto"}, {"devices": 1, "num_nodes": 2}])
def test_a_spread_model_is_one_process_s(trainer: dict[str, Any]) -> None:
    for device in ("auto", {0: 16, 1: 16}):
        cfg = OmegaConf.create({"mllm": {"device": device}, "trainer": trainer})
        with pytest.raises(ConfigError, match=r"set trainer.devices=1 and trainer.num_nodes=1"):
            check_spread(cfg)
    check_spread(OmegaConf.create({"mllm": {"device": "cpu"}, "trainer": trainer}))
    check_spread(OmegaConf.create({"mllm": {"device": "auto"}, "trainer": {"devices": [1]}}))
