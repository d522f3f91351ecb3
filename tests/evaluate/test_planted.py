"""Planted neurons do what they were built to do, in a net by hand and by plain loops, and only in a copy."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nam.errors import InputError, ModelError
from nam.evaluate.ground import find_ground
from nam.evaluate.planted import Planted, PlantedNeuron, plant, recovery
from nam.evaluate.planting import Role, Unfit, detector
from nam.mllm.base import MLLM
from nam.mllm.gill import GILL
from nam.reduction.base import Context, contexts_of
from nam.targets import image_target
from nam.types import Generation, Modality, Neuron, Target
from tests.evaluate.plain_net import CONCEPT, TARGET, UNIT, PlainNet, answer
from tests.families import build
from tests.reduction.cases import relevance

NONE: dict[str, Any] = {"strengths": (), "indirect": (), "silent": 0, "decoys": 0}


def state_of(mllm: MLLM) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in mllm.state_dict().items()}


def plain_contexts(net: PlainNet) -> tuple[list[Context], list[Generation]]:
    said = [answer(1, CONCEPT, 3), answer(4, CONCEPT, 3)]
    return contexts_of(net, said, [TARGET] * 2), [answer(1, 2, 3), answer(4, 5, 2)]


def effect_of(mllm: MLLM, neuron: Neuron, generation: Generation, target: Target) -> float:
    """What the target loses where one neuron is silenced at the target's positions, by a hook of its own."""
    at, length = list(target.positions), len(generation.token_ids)

    def silence(module: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
        values = given[0].reshape(length, -1).clone()
        values[at, neuron.unit] = 0
        return (values.reshape(given[0].shape),)

    def reading() -> float:
        hidden = mllm.replay([generation]).hidden[0, at]
        return float((hidden.double() * target.directions.double()).sum() / len(at))

    before = reading()
    handle = mllm.ffn_sites[neuron.layer].linear.register_forward_pre_hook(silence)
    after = reading()
    handle.remove()
    return before - after


def test_the_unit_is_the_largest_contribution_and_each_position_is_of_one_kind() -> None:
    contexts, others = plain_contexts(PlainNet())
    aim = find_ground(contexts, others).aims["text"]
    assert aim.unit == pytest.approx(UNIT)
    assert aim.there == ((0, 1), (1, 1))
    assert aim.weights.tolist() == [0.5, 0.5]
    assert aim.elsewhere == (
        (0, 0),
        (0, 2),
        (1, 0),
        (1, 2),
        *((row, at) for row in (2, 3) for at in range(3)),
    )
    assert aim.decoys == (((2, 0), (2, 1)), ((3, 0), (3, 1)))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("asked", "role", "expected"),
    [
        ({"strengths": (3.0,)}, "writer", 3 * UNIT),
        ({"indirect": (1.5,)}, "relay", 1.5 * UNIT),
        # Without it the relay is silent, and nothing else that it writes reaches the target.
        ({"indirect": (1.5,)}, "indirect", 1.5 * UNIT),
        ({"silent": 2}, "silent", 0.0),
        ({"decoys": 2}, "decoy", 0.0),
    ],
)
def test_effects_in_a_net_by_hand(asked: dict[str, Any], role: Role, expected: float, seed: int) -> None:
    net = PlainNet()
    contexts, others = plain_contexts(net)
    before = state_of(net)
    planted = plant(contexts, others, **NONE | asked, seed=seed)
    mine = [one for one in planted.neurons if one.role == role]
    assert len(mine) == (2 if role in ("silent", "decoy") else 1)
    for one in mine:
        assert one.effect == pytest.approx(expected, abs=1e-9)
        for context in contexts:
            found = effect_of(planted.mllm, one.neuron, context.generation, TARGET)
            assert found == pytest.approx(expected, abs=1e-9)
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])
    if role == "relay":
        first, second = (one for one in planted.neurons)
        assert (first.role, second.role) == ("indirect", "relay")
        assert first.neuron.layer == 0
        assert second.neuron.layer == 1
        vector = planted.mllm.ffn_sites[0].value_vectors[:, first.neuron.unit]
        assert abs(float(vector[7])) < 1e-12
        assert float(vector.norm()) > 0.1


def test_what_fires_and_what_does_not() -> None:
    net = PlainNet()
    contexts, others = plain_contexts(net)
    planted = plant(contexts, others, **NONE | {"silent": 1, "decoys": 1, "strengths": (1.0,)})
    fires: dict[Role, Tensor] = {}
    for context in contexts_of(planted.mllm, [c.generation for c in contexts], [TARGET] * 2):
        for one in planted.neurons:
            layer = context.activations[one.neuron.layer, 0]
            fires[one.role] = layer[one.neuron.unit]
            if one.role == "silent":
                assert layer.argmax() == one.neuron.unit
                assert not planted.mllm.ffn_sites[one.neuron.layer].value_vectors[:, one.neuron.unit].any()
            if one.role == "decoy":
                vector = planted.mllm.ffn_sites[one.neuron.layer].value_vectors[:, one.neuron.unit]
                assert vector.abs().argmax() == 7
    assert fires["writer"] > 0
    assert fires["silent"] > fires["writer"]
    assert fires["decoy"] == 0
    decoy = next(one.neuron for one in planted.neurons if one.role == "decoy")
    reads = contexts_of(
        planted.mllm, others, [Target("text", (0, 1), torch.ones(2, 8, dtype=torch.float64))] * 2
    )
    assert max(float(one.activations[decoy.layer, :, decoy.unit].max()) for one in reads) > 0


def gill_contexts(mllm: GILL) -> tuple[list[Context], list[Generation]]:
    """Words and pictures of three answers, and four others."""
    prompts = [
        "draw a red horse",
        "a horse at night",
        "what is a horse ?",
        "a dog",
        "a cat",
        "the sea",
        "two stars",
    ]
    answers = mllm.generate(prompt=prompts, draw=True, max_new_tokens=5, steps=1, guidance=1.0)
    generations, targets = [], []
    for row, found in enumerate(answers[:3]):
        at = found.spans.answer.start + 1
        token = found.token_ids[at + 1]
        rows = mllm.unembedding[[token]].float()
        generations += [found, found]
        targets += [
            Target("text", (at,), rows, token_ids=(token,), form_ids=frozenset({token})),
            image_target(found, relevance(seed=row // 3)),
        ]
    return contexts_of(mllm, generations, targets), answers[3:]


def changed(mllm: MLLM, planted: Planted) -> tuple[set[str], set[Neuron]]:
    """Tensors that differ, and neurons whose row, bias or value vector does."""
    names, neurons = set(), set()
    theirs = dict(planted.mllm.named_parameters())
    for name, mine in mllm.named_parameters():
        where = mine != theirs[name]
        if not where.any():
            continue
        names.add(name.rpartition("layers.")[2].partition(".")[2])
        axis = 0 if "fc2" in name else -1
        units = where.any(axis) if where.ndim == 2 else where
        layer = int(name.rpartition("layers.")[2].partition(".")[0])
        neurons |= {Neuron(layer, unit) for unit in units.nonzero()[:, 0].tolist()}
    return names, neurons


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_modalities_in_a_language_model(gill: GILL, dtype: torch.dtype) -> None:
    gill = gill.to(dtype)
    contexts, others = gill_contexts(gill)
    before = state_of(gill)
    planted = plant(contexts, others, strengths=(3.0, 1.5), indirect=(2.0,), silent=1, decoys=1, seed=0)
    assert [one.role for one in planted.of("text")] == [one.role for one in planted.of("image")]
    assert [one.role for one in planted.of("text")] == [
        "writer",
        "writer",
        "indirect",
        "relay",
        "silent",
        "decoy",
    ]
    names, neurons = changed(gill, planted)
    assert names == {"fc1.weight", "fc1.bias", "fc2.weight"}
    assert neurons == {one.neuron for one in planted.neurons}
    assert len(neurons) == 12
    tolerance = 1e-4 if dtype == torch.float32 else 0.2
    largest = max(one.effect for one in planted.neurons)
    for modality in ("text", "image"):
        mine = [context for context in contexts if context.target.modality == modality]
        for one in planted.of(modality):
            by_hook = [effect_of(planted.mllm, one.neuron, c.generation, c.target) for c in mine]
            assert one.effect == pytest.approx(sum(by_hook) / len(by_hook), abs=tolerance * largest)
            if one.is_cause:
                assert one.effect > 0.03 * largest
            else:
                assert abs(one.effect) < (1e-6 if one.role == "silent" else 1e-2) * largest
    for name, value in gill.state_dict().items():
        assert torch.equal(value, before[name])
    for model in (gill, planted.mllm):
        assert model.layout is None
        hooks = [len(module._forward_pre_hooks) for module in model.modules()]
        assert sum(hooks) == 0


def test_the_seed_decides(gill: GILL) -> None:
    contexts, others = gill_contexts(gill)
    few = {"strengths": (3.0,), "indirect": (2.0,), "silent": 1, "decoys": 0}
    one, same, other = (plant(contexts, others, **few, seed=seed) for seed in (0, 0, 1))  # type: ignore[arg-type]
    assert one.neurons == same.neurons
    assert all(torch.equal(a, b) for a, b in zip(one.mllm.parameters(), same.mllm.parameters(), strict=True))
    assert one.neurons != other.neurons


def test_recovery_by_hand() -> None:
    def made(unit: int, role: Role, modality: Modality = "text") -> PlantedNeuron:
        return PlantedNeuron(Neuron(0, unit), modality, role, 1.0, 1.0)

    planted = [made(0, "writer"), made(1, "writer"), made(2, "indirect"), made(3, "relay"), made(4, "silent")]
    planted += [made(5, "decoy"), made(6, "decoy")]
    ranking = [Neuron(0, unit) for unit in (9, 4, 0, 3, 8, 6, 2, 1, 5, 7)]
    found = recovery(ranking, planted, k=6)
    assert found.recall == 2 / 4
    assert found.precision == 2 / 4
    assert found.found == {"writer": 0.5, "indirect": 0.0, "relay": 1.0, "silent": 1.0, "decoy": 0.5}
    assert recovery(ranking, planted, k=10).recall == 1
    nothing = recovery(ranking, planted, k=1)
    assert nothing.recall == 0
    assert math.isnan(nothing.precision)
    with pytest.raises(InputError, match="fewer than the top 11"):
        recovery(ranking, planted, k=11)
    with pytest.raises(InputError, match="no writer was planted"):
        recovery(ranking, planted[4:], k=1)


def test_a_detector_is_silent_elsewhere_and_as_high_as_asked() -> None:
    generator = torch.Generator().manual_seed(0)
    elsewhere = torch.randn(40, 6, generator=generator, dtype=torch.float64)
    there = elsewhere[:5] + torch.tensor([0, 0, 9.0, 0, 0, 0], dtype=torch.float64)
    row, bias = detector(there, elsewhere, height=2.0)
    assert float((there @ row + bias).mean()) == pytest.approx(2.0)
    assert float((elsewhere @ row + bias).max()) == pytest.approx(-2.0)
    # Told apart from some alone, it leans on what differs there.
    row, bias = detector(there, elsewhere, height=2.0, against=elsewhere[:5])
    assert float((there @ row + bias).mean()) == pytest.approx(2.0)
    assert int(row.abs().argmax()) == 2
    with pytest.raises(Unfit, match="nothing tells"):
        detector(there, there, height=1.0)


def test_what_cannot_be_planted_is_refused(gill_folder: Path) -> None:
    net = PlainNet()
    contexts, others = plain_contexts(net)
    with pytest.raises(InputError, match="got 0 and 2"):
        plant([], others)
    with pytest.raises(InputError, match="got 2 and 0"):
        plant(contexts, [])
    with pytest.raises(InputError, match="contexts of one model"):
        plant([contexts[0], plain_contexts(PlainNet())[0][0]], others)
    with pytest.raises(InputError, match="above 0"):
        plant(contexts, others, strengths=(1.0, 0.0))
    with pytest.raises(InputError, match="at least 0"):
        plant(contexts, others, silent=-1)
    with pytest.raises(ModelError, match="too few to plant"):
        plant(contexts, others, **NONE | {"strengths": (1.0,) * 13})
    # What is said elsewhere is what is said here: nothing can tell the positions apart.
    with pytest.raises(ModelError, match=r"nothing tells|could not be built"):
        plant(contexts, [answer(CONCEPT, CONCEPT, CONCEPT)] * 9, **NONE | {"decoys": 1})
    llama = build("llama", gill_folder)
    drawn, rest = gill_contexts(llama)
    with pytest.raises(ModelError, match="linear called fc1"):
        plant(drawn, rest)
    undrawn = llama.generate("a dog", draw=False, max_new_tokens=3)
    with pytest.raises(InputError, match="like those of the image targets"):
        plant(drawn, [undrawn])
