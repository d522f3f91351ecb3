"""A delta touches its columns alone, comes off without a trace, and refuses what it does not fit."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import nam.editor.delta
from nam.editor import Delta, EditError, compose, difference, read_delta
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


def test_a_file_holds_all_of_it(gill: GILL, tmp_path: Path) -> None:
    delta = some(gill, (0, 3), (1, 7))
    read = read_delta(delta.save(tmp_path / "patch.safetensors"))
    assert read.neurons == delta.neurons
    assert torch.equal(read.original, delta.original)
    assert torch.equal(read.edited, delta.edited)
    assert (read.model, read.revision, read.manifest) == (delta.model, delta.revision, {"editor": "test"})
    with read.applied(gill):
        assert torch.equal(gill.ffn_sites[0].value_vectors[:, 3], delta.edited[0])


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


def test_files_that_are_no_deltas_are_refused(gill: GILL, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    whole = some(gill, (0, 1), (1, 2)).save(tmp_path / "whole.safetensors").read_bytes()
    path = tmp_path / "patch.safetensors"
    with pytest.raises(EditError, match="there is no file"):
        read_delta(path)
    path.write_bytes(pickle.dumps({"original": 1}))
    with pytest.raises(EditError, match="it is a pickle"):
        read_delta(path)
    torch.save({"original": torch.zeros(1)}, path)
    with pytest.raises(EditError, match="torch checkpoint, which is never opened"):
        read_delta(path)
    for size in (0, 5, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(EditError, match="truncated"):
            read_delta(path)
    save_file({"original": torch.zeros(1)}, path)
    with pytest.raises(EditError, match="no delta of this project"):
        read_delta(path)
    path.write_bytes(whole[:-3] + bytes(byte ^ 1 for byte in whole[-3:]))
    with pytest.raises(EditError, match="is damaged"):
        read_delta(path)


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
