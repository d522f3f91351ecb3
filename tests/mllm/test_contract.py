"""What every model must keep to; a family with a tiny random model is tested from then on, unlisted."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nam.mllm
from nam.editor.delta import difference
from nam.hooks import Intervention, Recorder
from nam.hooks.intervention import zero
from nam.mllm.base import MLLM
from nam.mllm.norm import read_final_norm
from nam.reduction.acu import AcU
from nam.reduction.base import Method
from nam.reduction.contributions import contributions_of
from nam.reduction.gradxact import GradXAct
from nam.reduction.nam import Nam
from nam.reduction.versions import Versions
from nam.types import PICTURE_ID, Neuron, NeuronSet
from tests.mllm.asked import (
    MODELS,
    PROMPTS,
    answers,
    ask,
    assert_close,
    bits_of,
    contexts,
    hooks_of,
    images,
    layer_outputs,
    made,
)


@pytest.fixture(scope="module", params=sorted(MODELS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def mllm(name: str, gill_folder: Path) -> MLLM:
    return made(name, gill_folder)


def test_every_model_class_is_under_contract(gill_folder: Path) -> None:
    classes = set()
    for file in pkgutil.iter_modules(nam.mllm.__path__):
        module = importlib.import_module(f"nam.mllm.{file.name}")
        for value in vars(module).values():
            own = isinstance(value, type) and issubclass(value, MLLM) and value.__module__ == module.__name__
            if own and not inspect.isabstract(value):
                classes.add(value)
    assert classes <= {type(made(name, gill_folder)) for name in MODELS}


def test_sites_are_where_the_neurons_write(mllm: MLLM) -> None:
    config = mllm.language_model.config.get_text_config(decoder=True)
    sites = mllm.ffn_sites
    assert [site.layer for site in sites] == list(range(config.num_hidden_layers))
    width = getattr(config, "ffn_dim", None) or config.intermediate_size
    assert {site.value_vectors.shape for site in sites} == {(config.hidden_size, width)}
    assert mllm.unembedding.shape[1] == config.hidden_size
    named = dict(mllm.language_model.named_modules())
    assert all(named[site.name] is site.linear for site in sites)


def test_a_batch_is_answered_as_each_sample_alone(mllm: MLLM) -> None:
    generations = answers(mllm)
    assert len({len(one.token_ids) for one in generations}) > 1
    backwards = mllm.generate(prompt=PROMPTS[::-1], image=images(mllm)[::-1], max_new_tokens=7, draw=False)
    for row, (prompt, image) in enumerate(zip(PROMPTS, images(mllm), strict=True)):
        alone = mllm.generate(prompt, image=image, max_new_tokens=7, draw=False)
        for other in (generations[row], backwards[::-1][row]):
            assert other.token_ids == alone.token_ids
            assert (other.text, other.spans, other.finish) == (alone.text, alone.spans, alone.finish)


def test_spans_name_every_token(mllm: MLLM) -> None:
    for generation, image in zip(answers(mllm), images(mllm), strict=True):
        spans = generation.spans
        assert len(spans) == len(generation.token_ids)
        assert spans.system.start == 0
        pictured = [place for place, token in enumerate(generation.token_ids) if token == PICTURE_ID]
        assert bool(pictured) == (image is not None) == (generation.input_pixels is not None)
        if pictured:
            assert (spans.picture.start, spans.picture.stop) == (pictured[0], pictured[-1] + 1)
        words = mllm.tokenizer.decode([generation.token_ids[place] for place in spans.text])
        before = [generation.token_ids[place] for place in spans.system]
        assert generation.prompt.split()[0] in words
        assert generation.prompt.split()[0] not in mllm.tokenizer.decode(before).split()


def test_the_replay_reads_what_was_generated(mllm: MLLM) -> None:
    recorder, replayed = Recorder(mllm), Recorder(mllm)
    generations = ask(mllm, record=recorder)
    with torch.no_grad():
        again = mllm.replay(generations, record=replayed)
    for row, generation in enumerate(generations):
        answer, shift = generation.spans.answer, again.offsets[row]
        assert int(again.mask[row].sum()) == int(again.mask[row, shift:].sum()) == len(generation.token_ids)
        positions = range(answer.start - 1, answer.stop - 1)
        one, other = recorder.recorded[row].at(positions), replayed.recorded[row].at(positions)
        assert_close(one.activations, other.activations)
        assert one.stream is not None
        assert other.stream is not None
        assert_close(one.stream, other.stream)
        hidden = again.hidden[row, shift + answer.start - 1 : shift + answer.stop - 1]
        assert_close(mllm.final_norm(one.stream), hidden)  # type: ignore[misc]
        logits = mllm.language_model.get_output_embeddings()(hidden)
        said = logits.gather(1, torch.tensor(generation.answer_ids)[:, None])
        # Nothing is likelier but what is never to be said: padding, places of pictures, later [IMG] tokens.
        likelier = (logits > said + 1e-4).any(0).nonzero().flatten().tolist()
        special = {id_ for id_, token in mllm.tokenizer.added_tokens_decoder.items() if token.special}
        assert set(likelier) <= special


def test_neurons_and_the_rest_make_the_logit(name: str, gill_folder: Path) -> None:
    mllm = made(name, gill_folder, torch.float64)
    generation = answers(made(name, gill_folder))[1]
    with torch.no_grad():
        context = contexts(mllm, (generation,))[0]
        at, directions = list(context.target.positions), context.after_norm()
        pulled = context.directions(norm="fold")
        per_layer = contributions_of([context], [pulled])[0].sum(-1)
        written = []
        for layer, site in enumerate(mllm.ffn_sites):
            mine = NeuronSet.of(Neuron(layer, unit) for unit in range(site.width))
            plain = layer_outputs(mllm, generation, layer)
            with Intervention(mllm, change=zero, neurons=mine):
                without = layer_outputs(mllm, generation, layer)
            # The layer reads the same in both runs: what is missing is what its neurons write.
            written.append((plain - without)[at])
            expected = (written[-1] * pulled).sum(1)
            torch.testing.assert_close(per_layer[layer], expected, rtol=1e-4, atol=1e-5)
        hidden = mllm.replay([generation]).hidden[0, at]
        true = (hidden @ mllm.unembedding.T)[range(len(at)), list(context.target.token_ids)]
    assert context.stream is not None
    rest = ((context.stream - sum(written)) * pulled).sum(1)
    bias = read_final_norm(mllm, straight=False).bias
    constant = 0.0 if bias is None else directions @ bias
    assert_close(per_layer.sum(0) + rest + constant, true, share=1e-5)
    assert float(per_layer.abs().max()) > 1e-3 * float(true.abs().max())


def test_nothing_is_left_in_the_model(mllm: MLLM) -> None:
    hooks, before = hooks_of(mllm), bits_of(mllm)
    generations = ask(mllm, record=Recorder(mllm))
    GradXAct().score(contexts(mllm, tuple(generations[:1]))[0])

    def fail(visit: object) -> Tensor:
        raise KeyboardInterrupt

    for call in (lambda: ask(mllm), lambda: mllm.replay(generations)):
        with pytest.raises(KeyboardInterrupt), Intervention(mllm, change=fail):
            call()
    assert hooks_of(mllm) == hooks
    assert mllm.layout is None
    assert all(map(torch.equal, bits_of(mllm), before))
    assert not any(p.requires_grad or p.is_inference() for p in mllm.parameters())


@pytest.mark.parametrize("method", [Nam(), AcU(norm="fold"), GradXAct()], ids=["nam", "fold", "gradient"])
def test_scores_do_not_depend_on_batch_padding_or_when_they_are_read(mllm: MLLM, method: Method) -> None:
    recorder = Recorder(mllm)
    generations = tuple(ask(mllm, record=recorder))
    together = method.score_batch(contexts(mllm, generations))
    recorded = method.score_batch(contexts(mllm, generations, recorded=recorder.recorded))
    for row, generation in enumerate(generations):
        alone = method.score(contexts(mllm, (generation,))[0])
        assert alone.shape == (len(mllm.ffn_sites), mllm.ffn_sites[0].width)
        assert_close(together[row], alone)
        assert_close(recorded[row], alone)
        assert float(alone.std()) > 0


@pytest.mark.parametrize("resume", [True, False])
def test_versions_of_the_first_layer_are_what_a_whole_forward_makes_of_each(
    name: str, gill_folder: Path, resume: bool
) -> None:
    mllm = made(name, gill_folder, torch.float64)
    context = contexts(mllm, answers(made(name, gill_folder))[1:2])[0]  # with a picture, if it can see one
    at = list(context.target.positions)
    given = torch.stack([2 * context.activations[0], context.activations[0].flip(-1)])
    found = Versions.of(context, resume=resume).hidden(given, layer=0)
    for values, hidden in zip(given, found, strict=True):

        def write(module: nn.Module, read: tuple[Tensor], values: Tensor = values) -> tuple[Tensor]:
            rows = read[0].reshape(-1, values.shape[-1]).index_copy(0, torch.tensor(at), values)
            return (rows.reshape(read[0].shape),)

        handle = mllm.ffn_sites[0].linear.register_forward_pre_hook(write)
        try:
            expected = mllm.replay([context.generation]).hidden[0, at]
        finally:
            handle.remove()
        assert_close(hidden, expected, share=1e-6)
    assert not torch.allclose(*found, rtol=0.01)


def test_half_precision_is_close(name: str, gill_folder: Path) -> None:
    whole, half = made(name, gill_folder), made(name, gill_folder, torch.bfloat16)
    assert half.dtype == torch.bfloat16
    generations = answers(whole)
    method = AcU(norm="fold")
    for exact, rounded in zip(
        method.score_batch(contexts(whole, generations)),
        method.score_batch(contexts(half, generations)),
        strict=True,
    ):
        assert rounded.dtype == torch.float32
        both = torch.stack([exact.flatten(), rounded.flatten()])
        assert float(both.corrcoef()[0, 1]) > 0.99
    assert ask(half)[0].spans.system == generations[0].spans.system


def test_an_edit_is_applied_and_comes_off_bit_by_bit(mllm: MLLM) -> None:
    before, said = bits_of(mllm), answers(mllm)[0]
    hidden = mllm.replay([said]).hidden
    neurons = NeuronSet.of([Neuron(0, 1), Neuron(len(mllm.ffn_sites) - 1, 3)])
    size = mllm.unembedding.shape[1]
    delta = difference(mllm, neurons, torch.randn(2, size, generator=torch.Generator().manual_seed(0)))
    with delta.applied(mllm):
        for site in mllm.ffn_sites:
            old = next(w for w, p in zip(before, mllm.parameters(), strict=False) if p is site.linear.weight)
            moved = (site.linear.weight != old).any(0).nonzero().flatten().tolist()
            assert moved == [one.unit for one in neurons if one.layer == site.layer]
        assert not torch.allclose(mllm.replay([said]).hidden, hidden, atol=1e-3)
    assert all(map(torch.equal, bits_of(mllm), before))
    assert torch.equal(mllm.replay([said]).hidden, hidden)


@pytest.fixture(scope="module", autouse=True)
def clear() -> Iterator[None]:
    yield
    kept: tuple[Callable[..., Any], ...] = (made, answers)
    for one in kept:
        one.cache_clear()  # type: ignore[attr-defined]
