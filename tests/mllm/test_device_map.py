"""Layers on several devices, and layers that rest in memory: the same numbers, and nothing mixed up.

No card is needed: the devices are pretended (`tests.devices`), where an operation on tensors of two of them
fails as it would on real ones. What rests in memory does so for real.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor, nn

import nam
from nam.app.attribute import main
from nam.app.config import check_run_folder
from nam.app.edit import check_place
from nam.app.settings import check_spread
from nam.editing import fit
from nam.editor.base import Editor
from nam.editor.delta import difference
from nam.editor.finetune import Finetune
from nam.editor.rewrite import Rewrite
from nam.errors import ConfigError, ModelError
from nam.hooks.callback import check
from nam.mllm.device_map import Spread, check_device, planned, share_out
from nam.mllm.fingerprint import fingerprint, part_digests
from nam.mllm.gill import GILL
from nam.mllm.resting import RestingLinear
from nam.mllm.spread import placed, spread
from nam.mllm.words import neuron_words
from nam.modules.editing import EditingModule
from nam.reduction.base import Method, contexts_of
from nam.store import Run
from nam.types import Modality, Neuron
from tests.devices import PretendDevices
from tests.editor.problems import NEURONS, problem
from tests.families import FAMILIES, answers, build
from tests.mllm.asked import MODELS, ask, bits_of, contexts, hooks_of, made
from tests.mllm.asked import answers as asked
from tests.reduction.cases import targets_of
from tests.reduction.test_contract import METHODS
from tests.runs import assert_same, run_command

CPU = torch.device("cpu")
CARDS = [torch.device("cuda", card) for card in range(3)]

#: Where the layers of a model of 2 or 3 go: a card that is not the main one, memory, another card.
LAYERS = (CARDS[1], None, CARDS[2])

#: Every method as it comes, and what else reads weights or runs layers one by one.
WAYS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in sorted(METHODS)),
    ("acu", {"norm": "fold"}),
    ("nam", {"norm": "fold", "gate": "none"}),
    ("nam_total", {"rerun": 3}),
    ("ablation", {"positions": "all", "neurons": 9}),
    ("ablation", {"resume": False, "neurons": 9}),
]


@pytest.fixture(autouse=True)
def _no_hydra_left_over() -> Iterator[None]:
    yield
    GlobalHydra.instance().clear()


@pytest.fixture
def devices() -> Iterator[PretendDevices]:
    with PretendDevices() as mode:
        yield mode


def over_cards(model: Any, *, main: torch.device = CARDS[0]) -> Any:
    count = len(model.ffn_sites)
    spread(model, Spread(main, (LAYERS * count)[:count]))
    return model


def resting(model: Any) -> Any:
    """The last layer of a model rests; nothing is pretended."""
    count = len(model.ffn_sites)
    spread(model, Spread(CPU, (*(CPU,) * (count - 1), None)))
    return model


# --- the same numbers, on the right devices -----------------------------------------------------------------


def test_a_pretended_device_is_not_mixed_with_another() -> None:
    with PretendDevices():
        one, other = torch.ones(2, device="cuda:0"), torch.ones(2).to("cuda:1")
        assert (one.device, other.device, (one * 2).device) == (CARDS[0], CARDS[1], CARDS[0])
        with pytest.raises(RuntimeError, match=r"add: tensors on \['cuda:0', 'cuda:1'\]"):
            one + other
        with pytest.raises(RuntimeError, match="linear: tensors on"):
            nn.functional.linear(one, torch.ones(3, 2))
        assert float((one.to(other) + other)[torch.tensor([0])]) == 2


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_spread_model_of_any_family_answers_and_is_attributed_alike(
    name: str, gill_folder: Path, devices: PretendDevices
) -> None:
    plain, model = made(name, gill_folder), MODELS[name](gill_folder, torch.float32)
    over_cards(model)
    assert [site.device for site in model.ffn_sites][:2] == [CARDS[1], CARDS[0]]
    assert model.ffn_sites[1].linear.weight.device == CPU
    assert model.device == model.final_norm.weight.device == CARDS[0]  # type: ignore[union-attr]
    generations, again = asked(plain), tuple(ask(model))
    assert [one.token_ids for one in again] == [one.token_ids for one in generations]
    for method in (METHODS["nam"](norm="fold"), METHODS["gradxact"]()):  # type: ignore[call-arg]
        wanted = method.score_batch(contexts(plain, generations))
        for one, other in zip(method.score_batch(contexts(model, again)), wanted, strict=True):
            assert one.device == CARDS[0]
            assert torch.equal(one.cpu(), other)
    neurons = [Neuron(layer, 3) for layer in range(len(model.ffn_sites))]
    assert neuron_words(model, neurons) == neuron_words(plain, neurons)
    assert (fingerprint(model), part_digests(model)) == (fingerprint(plain), part_digests(plain))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("modality", ["text", "image"])
def test_every_method_scores_a_spread_model_as_the_whole_one(
    family: str, modality: Modality, gill_folder: Path, devices: PretendDevices
) -> None:
    plain, model = (build(family, gill_folder, dtype=torch.float64) for _ in range(2))
    generations = answers(plain)[:2]
    over_cards(model)
    hooks = hooks_of(model)
    for name, options in WAYS:
        method: Method = METHODS[name](**options)
        one, other = (
            method.score_batch(contexts_of(each, generations, targets_of(each, generations, modality)))
            for each in (model, plain)
        )
        assert all(torch.equal(a.cpu(), b) for a, b in zip(one, other, strict=True)), (name, options)
    assert hooks_of(model) == hooks
    check(model)


def test_one_card_and_memory_need_no_hooks(gill_folder: Path) -> None:
    plain, model = (build("llama", gill_folder, dtype=torch.float64) for _ in range(2))
    before = {name: tensor.clone() for name, tensor in model.language_model.state_dict().items()}
    resting(model)
    assert hooks_of(model) == hooks_of(plain)
    assert {type(model.ffn_sites[layer].linear) for layer in (0, 1)} == {nn.Linear}
    assert isinstance(model.ffn_sites[2].linear, RestingLinear)
    generations = answers(plain)
    assert [one.token_ids for one in answers(model)] == [one.token_ids for one in generations]
    for name in ("acu", "gradxact", "ig", "ablation"):
        targets = targets_of(plain, generations, "text")
        one, other = (
            METHODS[name]().score_batch(contexts_of(each, generations, targets)) for each in (model, plain)
        )
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True)), name
    after = model.language_model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_what_waits_for_a_backward_pass_holds_no_copy_of_a_resting_weight(devices: PretendDevices) -> None:
    linear = nn.Linear(5, 7).double().requires_grad_(False)
    found = RestingLinear(linear, device=CARDS[0])
    found.bias = nn.Parameter(linear.bias.to(CARDS[0]), requires_grad=False)
    rows = torch.randn(3, 5, dtype=torch.float64, device="cuda:0").requires_grad_()
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = found(rows)
    assert [tensor.data_ptr() for tensor in kept] == [linear.weight.data_ptr()]
    (gradient,) = torch.autograd.grad(out.square().sum(), rows)
    by_hand = 2 * out.detach().cpu() @ linear.weight
    torch.testing.assert_close(gradient.cpu(), by_hand, rtol=1e-12, atol=1e-12)


# --- editing ------------------------------------------------------------------------------------------------


def test_a_delta_is_applied_where_each_weight_is_and_comes_off_bit_by_bit(
    gill_folder: Path, devices: PretendDevices
) -> None:
    plain, model = build("opt", gill_folder), over_cards(build("opt", gill_folder))
    answers(model)  # vision tower and generator are read
    before = bits_of(model)
    change = torch.randn(len(NEURONS), 32, generator=torch.Generator().manual_seed(0))
    delta, there = (difference(each, NEURONS, change) for each in (plain, model))
    assert torch.equal(delta.edited, there.edited)
    with delta.applied(plain), delta.applied(model):
        changed = [one.token_ids for one in answers(model)]
        assert changed == [one.token_ids for one in answers(plain)]
        assert fingerprint(model) == fingerprint(plain)
        scores = [
            METHODS["nam"]().score_batch(contexts_of(each, found, targets_of(each, found, "text")))[0].cpu()
            for each, found in ((each, answers(each)) for each in (model, plain))
        ]
        assert torch.equal(*scores)  # what was computed of the weights before is computed anew
    assert all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(bits_of(model), before, strict=True))


@pytest.mark.parametrize("editor", [Rewrite(steps=2), Finetune(steps=3)], ids=lambda editor: editor.name)
def test_an_editor_finds_the_same_change_in_a_spread_model(
    editor: Editor, gill_folder: Path, devices: PretendDevices
) -> None:
    found = []
    for model in (build("opt", gill_folder), over_cards(build("opt", gill_folder), main=CPU)):
        module = EditingModule(problem=problem(model), editor=editor, neurons=NEURONS)
        fit(module)
        found.append(module.found)
    assert float(found[0].norm()) > 0
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


# --- a spread model stays where it is -----------------------------------------------------------------------


def test_nothing_moves_a_spread_model(gill_folder: Path, devices: PretendDevices) -> None:
    model = over_cards(build("llama", gill_folder))
    module = L.LightningModule()
    module.mllm = model
    where = [tensor.device for tensor in (*model.parameters(), *model.buffers())]
    assert {*where} == {CPU, *CARDS}
    for device in ("cuda:2", "cpu"):
        module.to(device)
        assert [tensor.device for tensor in (*model.parameters(), *model.buffers())] == where
    with pytest.raises(ModelError, match=r"is loaded in its precision: set mllm.dtype=bfloat16"):
        module.bfloat16()
    assert model.dtype == torch.float32


def test_an_edit_is_computed_on_the_first_card(gill_folder: Path, devices: PretendDevices) -> None:
    model = over_cards(build("opt", gill_folder))
    check_place(model, CARDS[0])
    with pytest.raises(ConfigError, match="first card is cuda:0, the trainer's device is cpu: name that one"):
        check_place(model, CPU)


def test_a_tied_embedding_stays_tied(gill_folder: Path, devices: PretendDevices) -> None:
    model: GILL = over_cards(build("opt", gill_folder))
    assert model.unembedding is model.language_model.get_input_embeddings().weight
    assert model.unembedding.device == CARDS[0]


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


def test_auto_leaves_room_for_what_is_no_layer(gill_folder: Path, devices: PretendDevices) -> None:
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
    assert str(Spread(CPU, LAYERS)) == "1 layers on cuda:1, 1 layers in memory, 1 layers on cuda:2"


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
