"""Layers on several devices, and layers that rest in memory: the same numbers, and nothing mixed up.

No card is needed: the devices are pretended (`tests.devices`), where an operation on tensors of two of them
fails as it would on real ones. What rests in memory does so for real.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from nam.app.edit import check_place
from nam.editing import fit
from nam.editor.base import Editor
from nam.editor.delta import difference
from nam.editor.finetune import Finetune
from nam.editor.rewrite import Rewrite
from nam.errors import ConfigError, ModelError
from nam.hooks.callback import check
from nam.mllm.device_map import Spread
from nam.mllm.fingerprint import fingerprint, part_digests
from nam.mllm.gill import GILL
from nam.mllm.resting import RestingLinear
from nam.mllm.spread import spread
from nam.mllm.words import WordBook
from nam.modules.editing import EditingModule
from nam.reduction.base import Method, contexts_of
from nam.types import Modality, Neuron
from tests.devices import CARDS, CPU, PretendDevices, devices
from tests.editor.problems import NEURONS, problem
from tests.families import FAMILIES, answers, build
from tests.mllm.asked import MODELS, ask, bits_of, contexts, hooks_of, made
from tests.mllm.asked import answers as asked
from tests.reduction.cases import targets_of
from tests.reduction.test_contract import METHODS

__all__ = ["devices"]

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


def over_cards(model: Any, *, main: torch.device = CARDS[0]) -> Any:
    count = len(model.ffn_sites)
    spread(model, Spread(main, (LAYERS * count)[:count]))
    return model


def resting(model: Any) -> Any:
    """The last layer of a model rests; nothing is pretended."""
    count = len(model.ffn_sites)
    spread(model, Spread(CPU, (*(CPU,) * (count - 1), None)))
    return model


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
    assert WordBook(model)(neurons) == WordBook(plain)(neurons)
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
