"""A delta touches its columns alone, comes off without a trace, and refuses what it does not fit."""

from __future__ import annotations

from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import nam.editor.delta
from nam.editor import Delta, EditError, compose, difference
from nam.mllm.gill import GILL
from nam.types import Neuron, NeuronSet
from tests.families import build

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def weights(mllm: GILL) -> list[Tensor]:
    return [tensor.clone() for tensor in (*mllm.parameters(), *mllm.buffers())]


def assert_same_bits(mllm: GILL, before: list[Tensor]) -> None:
    for one, other in zip((*mllm.parameters(), *mllm.buffers()), before, strict=True):
        kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[one.element_size()]
        assert torch.equal(one.view(kind), other.view(kind))


def some(mllm: GILL, *neurons: tuple[int, int], seed: int = 0, size: float = 1.0) -> Delta:
    chosen = NeuronSet.of(Neuron(*neuron) for neuron in neurons)
    noise = torch.randn(len(chosen), 32, generator=torch.Generator().manual_seed(seed))
    return difference(mllm, chosen, size * noise, manifest={"editor": "test"})


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("family", ["opt", "llama"])
def test_a_delta_changes_its_columns_alone_and_comes_off_without_a_trace(
    family: str, dtype: torch.dtype, gill_folder: Path
) -> None:
    mllm = build(family, gill_folder, dtype=dtype)
    before = weights(mllm)
    delta = some(mllm, (0, 3), (1, 0), (1, 40))
    with delta.applied(mllm):
        for layer, site in enumerate(mllm.ffn_sites):
            old = next(w for w, p in zip(before, mllm.parameters(), strict=False) if p is site.linear.weight)
            moved = (site.linear.weight != old).any(dim=0).nonzero().squeeze(1).tolist()
            assert moved == {0: [3], 1: [0, 40]}.get(layer, [])
    assert_same_bits(mllm, before)


def test_an_exception_inside_takes_it_off_too(gill: GILL) -> None:
    before = weights(gill)
    with pytest.raises(KeyboardInterrupt), some(gill, (0, 1)).applied(gill):
        raise KeyboardInterrupt
    assert_same_bits(gill, before)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    units=st.sets(st.tuples(st.integers(0, 1), st.integers(0, 63)), min_size=1, max_size=20),
    size=st.floats(1e-8, 1e4),
    seed=st.integers(0, 99),
)
def test_any_change_comes_off_bit_by_bit_in_half_precision(
    units: set[tuple[int, int]], size: float, seed: int, half: GILL
) -> None:
    before = weights(half)
    with some(half, *units, seed=seed, size=size).applied(half):
        pass
    assert_same_bits(half, before)


@pytest.fixture(scope="module")
def half(gill_folder: Path) -> GILL:
    return build("opt", gill_folder, dtype=torch.bfloat16)


def test_overlapping_deltas_are_refused_or_come_off_in_reverse_order(gill: GILL) -> None:
    before = weights(gill)
    first, beside = some(gill, (0, 1), (0, 2)), some(gill, (0, 2), (0, 3), seed=1)
    first.apply(gill)
    with pytest.raises(EditError, match=r"1 of the delta's 2 value vectors \(L0.U2\).*overlaps"):
        beside.apply(gill)
    on_top = some(gill, (0, 2), seed=2)
    on_top.apply(gill)
    with pytest.raises(EditError, match=r"applied later overlaps with it in 1 neurons \(L0.U2\)"):
        first.revert(gill)
    on_top.revert(gill)
    first.revert(gill)
    assert_same_bits(gill, before)
    with pytest.raises(EditError, match="nothing to revert"):
        first.revert(gill)


def test_deltas_that_do_not_overlap_come_off_in_any_order(gill: GILL) -> None:
    before = weights(gill)
    first, second = some(gill, (0, 1)), some(gill, (1, 1))
    first.apply(gill)
    second.apply(gill)
    first.revert(gill)
    second.revert(gill)
    assert_same_bits(gill, before)


def test_deltas_of_one_model_compose_unless_they_overlap(gill: GILL) -> None:
    first, second = some(gill, (1, 5), (0, 1)), some(gill, (0, 0), seed=1)
    both = compose([first, second])
    with both.applied(gill):
        together = weights(gill)
    with first.applied(gill), second.applied(gill):
        assert_same_bits(gill, together)
    with pytest.raises(EditError, match=r"deltas 0 and 1 overlap in 1 neurons: L0.U1"):
        compose([first, some(gill, (0, 1))])
    with pytest.raises(EditError, match="at least one delta"):
        compose([])


def test_weights_that_something_else_changed_are_left_alone(gill: GILL) -> None:
    delta = some(gill, (0, 1))
    delta.apply(gill)
    with torch.no_grad():
        gill.ffn_sites[0].linear.weight[0, 1] = 7.0
    with pytest.raises(EditError, match="changed by something else"):
        delta.revert(gill)
    assert gill.ffn_sites[0].linear.weight[0, 1] == 7.0


def test_a_delta_is_applied_once_unless_it_changes_nothing(gill: GILL) -> None:
    before = weights(gill)
    delta, nothing = some(gill, (0, 1)), some(gill, (1, 1), size=0.0)
    with delta.applied(gill), pytest.raises(EditError, match="it is applied already"):
        delta.apply(gill)
    for act in (nothing.apply, nothing.apply, nothing.revert, nothing.revert):
        act(gill)
    assert nam.editor.delta.applied_deltas(gill) == ()
    assert_same_bits(gill, before)


def test_threads_that_share_a_model_leave_it_as_it_was(gill: GILL) -> None:
    before = weights(gill)
    deltas = [some(gill, (0, unit), seed=unit) for unit in (0, 0, 1, 2)]  # two of them meet
    wrong: list[BaseException] = []

    def act(delta: Delta) -> None:
        for _ in range(50):
            try:
                with delta.applied(gill):
                    pass
            except EditError as error:
                if "overlaps with a delta that is applied" not in str(error):
                    wrong.append(error)
            except BaseException as error:
                wrong.append(error)

    threads = [Thread(target=act, args=(delta,)) for delta in deltas]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert nam.editor.delta.applied_deltas(gill) == ()
    assert_same_bits(gill, before)


def test_it_says_in_a_line_what_it_is(gill: GILL) -> None:
    delta = difference(
        gill, NeuronSet((Neuron(0, 1),)), torch.ones(1, 32), manifest={"source": "cat", "target": "dog"}
    )
    assert repr(delta) == f"Delta(cat -> dog, 1 neurons of {gill.name}, l2 norm 5.66)"


def test_a_change_of_another_shape_is_refused(gill: GILL) -> None:
    two = NeuronSet((Neuron(0, 1), Neuron(1, 2)))
    for shape in ((1, 32), (2, 31), (32,)):  # the first would spread over both neurons
        with pytest.raises(EditError, match=r"of shape \(2, 32\) for 2 neurons, got \("):
            difference(gill, two, torch.ones(shape))
    with pytest.raises(EditError, match=r"has no neuron L1.U64: expected layers 0 to 1, units 0 to 63"):
        difference(gill, NeuronSet((Neuron(1, 64),)), torch.ones(1, 32))
    name: Any = "tiny_gill"
    with pytest.raises(EditError, match=r"a delta is applied to a model, as nam.load gives it"):
        some(gill, (0, 1)).apply(name)


def test_a_model_that_it_does_not_fit_is_refused(gill: GILL, gill_folder: Path) -> None:
    delta = some(gill, (0, 60))
    with pytest.raises(EditError, match=r"3 layers of 48 neurons"):
        delta.apply(build("llama", gill_folder))
    with pytest.raises(EditError, match=r"made in float32.*loaded in bfloat16; set mllm.dtype=float32"):
        delta.apply(build("opt", gill_folder, dtype=torch.bfloat16))
    other = build("opt", gill_folder)
    with torch.no_grad():
        other.unembedding.mul_(1.5)
    with pytest.raises(EditError, match=r"made on .* with weights [0-9a-f]{16}, .* has weights"):
        delta.apply(other)


def test_an_edit_needs_neurons_and_finite_numbers(gill: GILL) -> None:
    with pytest.raises(EditError, match=r"at least one neuron: set edit\.k"):
        difference(gill, NeuronSet(()), torch.zeros(0, 32))
    with pytest.raises(EditError, match="not finite"):
        some(gill, (0, 1), size=float("inf"))


@pytest.mark.parametrize("act", ["apply", "revert"])
def test_what_stops_a_write_half_way_leaves_the_original_weights(
    act: str, gill: GILL, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = weights(gill)
    delta = some(gill, (0, 1), (1, 2))
    if act == "revert":
        delta.apply(gill)
    write, calls = nam.editor.delta.write_columns, []

    def stopped(mllm: GILL, neurons: NeuronSet, columns: Tensor) -> None:
        calls.append(columns)
        if len(calls) == 1:
            write(mllm, NeuronSet(neurons.neurons[:1]), columns[:1])
            raise KeyboardInterrupt
        write(mllm, neurons, columns)

    monkeypatch.setattr("nam.editor.delta.write_columns", stopped)
    with pytest.raises(KeyboardInterrupt):
        getattr(delta, act)(gill)
    assert_same_bits(gill, before)
    assert nam.editor.delta.applied_deltas(gill) == ()
