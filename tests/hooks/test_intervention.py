"""Writing: only what was chosen changes, gradients stay right, and nothing remains."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nam.errors import InputError
from nam.hooks import Intervention, Recorder, Visit, add_noise, scale, set_to, zero
from nam.hooks.intervention import Change
from nam.mllm.gill import GILL
from nam.types import Neuron, NeuronSet
from tests.families import FAMILIES, answers, build

CHOSEN = NeuronSet.of([Neuron(0, 3), Neuron(1, 0), Neuron(1, 9)])


@pytest.fixture(params=FAMILIES)
def mllm(request: pytest.FixtureRequest, gill_folder: Path) -> GILL:
    return build(request.param, gill_folder)


def hook_count(mllm: GILL) -> int:
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in mllm.modules())


@pytest.mark.parametrize(
    ("change", "expected"),
    [(zero, lambda a: a * 0), (scale(-2.0), lambda a: -2 * a), (set_to(0.5), lambda a: a * 0 + 0.5)],
)
def test_the_chosen_first_layer_neurons_become_what_was_asked(
    mllm: GILL, change: Change, expected: object
) -> None:
    generations = answers(mllm)
    neurons = NeuronSet.of([Neuron(0, 3), Neuron(0, 5)])
    plain, changed = Recorder(mllm, where="all"), Recorder(mllm, where="all")
    mllm.replay(generations, record=plain)
    where = [[1, 6], [2], [], [4]]
    with Intervention(mllm, change=change, neurons=neurons, where=where):
        mllm.replay(generations, record=changed)
    for at, a, b in zip(where, plain.recorded, changed.recorded, strict=True):
        wanted = a.activations[0].clone()
        for position in at:
            wanted[position, [3, 5]] = expected(wanted[position, [3, 5]])  # type: ignore[operator]
        torch.testing.assert_close(b.activations[0], wanted)
        assert torch.equal(b.activations[1], a.activations[1]) == (not at)


def test_ablation_equals_zeroing_the_value_vector(mllm: GILL) -> None:
    generations = answers(mllm)
    with Intervention(mllm, change=zero, neurons=CHOSEN):
        ablated = mllm.replay(generations).hidden
        said = mllm.generate(prompt="a dog", draw=False, max_new_tokens=8)
    for neuron in CHOSEN:
        mllm.ffn_sites[neuron.layer].linear.weight[:, neuron.unit] = 0
    replayed = mllm.replay(generations)
    kept = replayed.mask.bool()  # what stands at padding nobody reads
    torch.testing.assert_close(replayed.hidden[kept], ablated[kept], atol=1e-5, rtol=1e-5)
    assert mllm.generate(prompt="a dog", draw=False, max_new_tokens=8).token_ids == said.token_ids


def test_noise_does_not_depend_on_the_batch(mllm: GILL) -> None:
    generations = answers(mllm)
    together, alone = Recorder(mllm, where="all"), Recorder(mllm, where="all")
    with Intervention(mllm, change=add_noise(std=0.3, seed=4), neurons=CHOSEN):
        mllm.replay(generations, record=together)
        mllm.replay(generations[3:], record=alone)
    a, b = together.recorded[3].activations, alone.recorded[0].activations
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    plain = Recorder(mllm, where="all")
    mllm.replay(generations, record=plain)
    drawn = torch.cat([x.activations[0, :, 3] for x in together.recorded])
    drawn = drawn - torch.cat([x.activations[0, :, 3] for x in plain.recorded])
    assert 0.2 < float(drawn.std()) < 0.4
    untouched = torch.equal(plain.recorded[0].activations[0, :, 4], together.recorded[0].activations[0, :, 4])
    assert untouched


def test_gradients_flow_through_what_was_written(gill_folder: Path) -> None:
    mllm = build("opt", gill_folder, dtype=torch.float64)
    generation = answers(mllm)[0]
    factor = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)

    def total(value: torch.Tensor) -> torch.Tensor:
        with Intervention(mllm, change=lambda visit: visit.values * value, where=[[3, 4]]):
            return mllm.replay([generation]).hidden.square()[0, :, :3].sum()

    assert torch.autograd.gradcheck(total, (factor,))


def test_hooks_are_gone_after_a_normal_and_a_raising_exit(mllm: GILL) -> None:
    before = {key: value.clone() for key, value in mllm.state_dict().items()}
    generation = answers(mllm)[0]

    def fail(visit: Visit) -> torch.Tensor:
        raise KeyboardInterrupt

    with Intervention(mllm, change=zero, neurons=CHOSEN):
        assert hook_count(mllm) == 2
        mllm.replay([generation])
    assert hook_count(mllm) == 0
    with pytest.raises(KeyboardInterrupt), Intervention(mllm, change=fail):
        mllm.replay([generation], record=Recorder(mllm))
    assert hook_count(mllm) == 0
    assert mllm.layout is None
    after = mllm.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_misuse_is_named(shared_gill: GILL) -> None:
    with pytest.raises(InputError, match=r"no neuron L2\.U0 in 2 layers of 64"):
        Intervention(shared_gill, change=zero, neurons=NeuronSet.of([Neuron(2, 0)]))
    watch = Intervention(shared_gill, change=zero)
    with watch, pytest.raises(RuntimeError, match="in use already"):
        watch.__enter__()
    assert hook_count(shared_gill) == 0
