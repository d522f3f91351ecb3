"""Reading: the right values of the right token, however the batch is padded and whenever it is read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from nam.errors import InputError, ModelError
from nam.hooks import Recorder
from nam.mllm.gill import GILL
from tests.families import FAMILIES, PROMPTS, answers, build


@pytest.fixture(params=FAMILIES)
def mllm(request: pytest.FixtureRequest, gill_folder: Path) -> GILL:
    return build(request.param, gill_folder)


def test_what_is_recorded_is_what_is_replayed(mllm: GILL) -> None:
    recorder, replayed = Recorder(mllm), Recorder(mllm)
    generations = answers(mllm, record=recorder)
    with torch.no_grad():
        mllm.replay(generations, record=replayed)
    assert len({len(g.token_ids) for g in generations}) > 1
    for generation, a, b in zip(generations, recorder.recorded, replayed.recorded, strict=True):
        spans = generation.spans
        assert a.positions == b.positions == tuple(range(spans.answer.start - 1, spans.img.stop))
        width = mllm.ffn_sites[0].width
        assert a.activations.shape == (len(mllm.ffn_sites), len(a.positions), width)
        torch.testing.assert_close(a.activations, b.activations, atol=1e-4, rtol=1e-4)
        assert a.stream is not None
        assert b.stream is not None
        torch.testing.assert_close(a.stream, b.stream, atol=1e-4, rtol=1e-4)
        assert not a.activations.is_inference()


def test_rows_that_end_early_or_go_on_to_a_picture(shared_gill: GILL) -> None:
    recorder, replayed = Recorder(shared_gill), Recorder(shared_gill)
    generations = shared_gill.generate(prompt=PROMPTS, draw=False, record=recorder)
    assert {len(g.spans.img) for g in generations} == {0, 8}
    shared_gill.replay(generations, record=replayed)
    for generation, a, b in zip(generations, recorder.recorded, replayed.recorded, strict=True):
        assert a.positions[-1] == len(generation.token_ids) - 1
        assert a.positions == b.positions
        torch.testing.assert_close(a.activations, b.activations, atol=1e-4, rtol=1e-4)


def test_values_are_those_that_enter_the_value_linear_of_an_unpadded_pass(mllm: GILL) -> None:
    generations = answers(mllm)
    recorder = Recorder(mllm, where=[[2, 5], [7], [], [1, 8]])
    mllm.replay(generations, record=recorder)
    seen: list[Tensor] = []
    site = mllm.ffn_sites[1]
    handle = site.linear.register_forward_hook(lambda module, given, out: seen.append(given[0]))
    try:
        for generation in generations:
            mllm.replay([generation])
    finally:
        handle.remove()
    assert [part.positions for part in recorder.recorded] == [(2, 5), (7,), (1, 8)]
    for row, part in zip((0, 1, 3), recorder.recorded, strict=True):
        by_hand = seen[row].reshape(-1, site.width)[list(part.positions)]
        torch.testing.assert_close(part.activations[1], by_hand, atol=1e-4, rtol=1e-4)


def test_the_stream_becomes_the_last_hidden_state(mllm: GILL) -> None:
    recorder = Recorder(mllm)
    generations = answers(mllm, record=recorder)
    assert mllm.final_norm is not None
    for generation, part in zip(generations, recorder.recorded, strict=True):
        img = part.at(list(generation.spans.img))
        torch.testing.assert_close(mllm.final_norm(img.stream), generation.hidden, atol=1e-4, rtol=1e-4)


def test_half_precision_is_recorded_as_float32(gill_folder: Path) -> None:
    mllm = build("opt", gill_folder, dtype=torch.bfloat16)
    recorder = Recorder(mllm)
    mllm.generate(prompt="a dog", draw=False, max_new_tokens=2, record=recorder)
    assert recorder.recorded[0].activations.dtype == torch.float32


def test_nothing_but_the_positions_is_kept(shared_gill: GILL) -> None:
    recorder = Recorder(shared_gill, where=[[4]])
    generation = shared_gill.generate(prompt="a dog", draw=False)
    shared_gill.replay([generation], record=recorder)
    part = recorder.recorded[0]
    assert part.activations.shape == (2, 1, 64)
    assert part.activations.untyped_storage().nbytes() == part.activations.numel() * 4
    assert not recorder._read


def test_misuse_is_named(shared_gill: GILL) -> None:
    recorder = Recorder(shared_gill)
    with pytest.raises(InputError, match="nothing was recorded"):
        recorder.recorded  # noqa: B018
    with pytest.raises(InputError, match='where must be "all", "answer" or'):
        Recorder(shared_gill, where="img")  # type: ignore[arg-type]
    generation = shared_gill.generate(prompt="a dog", draw=False, max_new_tokens=2, record=recorder)
    with pytest.raises(InputError, match="position 0 was not recorded"):
        recorder.recorded[0].at([0])
    with pytest.raises(InputError, match="sample 0 has no position 99"):
        shared_gill.replay([generation], record=Recorder(shared_gill, where=[[99]]))
    with pytest.raises(InputError, match="no positions are given for sample 1"):
        shared_gill.replay([generation] * 2, record=Recorder(shared_gill, where=[[1]]))
    recorder.__enter__()
    shared_gill.replay([generation])
    shared_gill.replay([generation])
    with pytest.raises(InputError, match="read twice"):
        recorder.__exit__(None, None, None)
    ids = torch.tensor([generation.token_ids])
    with pytest.raises(ModelError, match="not announced"), recorder:
        shared_gill.language_model(ids)
    assert not any(len(module._forward_pre_hooks) for module in shared_gill.modules())


def test_no_samples_give_no_records(shared_gill: GILL) -> None:
    recorder = Recorder(shared_gill)
    assert shared_gill.generate(prompt=[], record=recorder) == []
    assert recorder.recorded == ()


@pytest.mark.parametrize("layers", [(), (1,), (1, 0)], ids=str)
def test_some_layers_are_read_as_among_all(layers: tuple[int, ...], mllm: GILL) -> None:
    whole, some = Recorder(mllm), Recorder(mllm, layers=layers)
    generations = answers(mllm, record=whole)
    with torch.no_grad():
        mllm.replay(generations, record=some)
    for a, b in zip(whole.recorded, some.recorded, strict=True):
        assert a.positions == b.positions
        assert len(b.activations) == len(layers)
        for place, layer in enumerate(layers):
            torch.testing.assert_close(b.activations[place], a.activations[layer], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(b.stream, a.stream, atol=1e-4, rtol=1e-4)
        assert b.at(b.positions[1:]).activations.shape[1] == len(b.positions) - 1


@pytest.mark.parametrize("layers", [(2,), (-1,), (0, 0)], ids=str)
def test_layers_that_are_none_are_refused(layers: tuple[int, ...], shared_gill: GILL) -> None:
    with pytest.raises(InputError, match="layers must be different ones of 0 to 1, got"):
        Recorder(shared_gill, layers=layers)
