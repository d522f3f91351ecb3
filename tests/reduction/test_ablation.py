"""Exact ablation against a plain loop: one neuron, one hook, one whole forward pass at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nam.errors import ConfigError, InputError, ModelError
from nam.mllm import resume
from nam.mllm.gill import GILL
from nam.reduction.ablated import Positions, ablate, ablated_hidden
from nam.reduction.ablation import Ablation
from nam.reduction.base import Context, contexts_of
from nam.reduction.gradxact import GradXAct
from nam.targets import image_target, text_target
from nam.types import Concept, Generation, Neuron, NeuronSet, Target
from tests.families import FAMILIES, answers, build, picture
from tests.reduction.cases import a_word, relevance
from tests.reduction.language_models import CLASSES, with_language_model


def ask(mllm: GILL, *, seen: bool = False) -> Generation:
    found: Generation = mllm.generate(
        prompt="a cat at night", image=picture(1) if seen else None, draw=True, max_new_tokens=9, steps=1
    )
    return found


def context_of(mllm: GILL, case: str, *, seen: bool = False) -> Context:
    """A word at three positions with others between them, or what was drawn, at the 8 [IMG] positions."""
    generation = ask(mllm, seen=seen)
    if case == "image":
        target = image_target(generation, relevance(seed=2))
    else:
        first = generation.spans.answer.start
        at = (first,) if case == "one" else (first, first + 3, first + 4)
        tokens = tuple(generation.token_ids[position + 1] for position in at)
        rows = mllm.unembedding[list(tokens)].double()
        target = Target("text", positions=at, directions=rows, token_ids=tokens)
    return contexts_of(mllm, [generation], [target])[0]


def some_neurons(mllm: GILL, *, each: int = 5) -> NeuronSet:
    width = mllm.ffn_sites[0].width
    return NeuronSet.of(
        Neuron(site.layer, (7 * index + 11 * site.layer) % width)
        for site in mllm.ffn_sites
        for index in range(each)
    )


def by_loop(
    context: Context, neurons: Sequence[Neuron], *, positions: Positions, baseline: Tensor | None
) -> Tensor:
    """Last hidden states (n, P, H) at the target's positions: a hook and a whole replay for each neuron."""
    mllm, at = context.mllm, list(context.target.positions)
    length = len(context.generation.token_ids)
    ends = [name for name, _ in mllm.language_model.named_modules() if name.endswith(("fc2", "down_proj"))]
    found = []
    for neuron in neurons:

        def change(module: nn.Module, given: tuple[Tensor], neuron: Neuron = neuron) -> tuple[Tensor]:
            values = given[0].reshape(length, -1).clone()
            where = at if positions == "target" else list(range(length))
            values[where, neuron.unit] = 0.0 if baseline is None else baseline[neuron.layer, neuron.unit]
            return (values.reshape(given[0].shape),)

        linear = mllm.language_model.get_submodule(ends[neuron.layer])
        handle = linear.register_forward_pre_hook(change)
        found.append(mllm.replay([context.generation]).hidden[0, at])
        handle.remove()
    return torch.stack(found)


@pytest.mark.parametrize("kind", list(CLASSES))
@pytest.mark.parametrize("case", ["one", "several", "image"])
@pytest.mark.parametrize("positions", ["target", "all"])
@pytest.mark.parametrize("away_from", ["zero", "mean"])
def test_hidden_states_are_those_of_a_plain_loop(
    gill_folder: Path, kind: str, case: str, positions: Positions, away_from: str
) -> None:
    mllm = with_language_model(gill_folder, kind, attention="eager" if case == "several" else "sdpa")
    context = context_of(mllm, case)
    neurons = some_neurons(mllm)
    baseline = None
    if away_from == "mean":
        shape = (len(mllm.ffn_sites), mllm.ffn_sites[0].width)
        baseline = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = by_loop(context, list(neurons), positions=positions, baseline=baseline)
    # transformers computes RMSNorm, and eager attention's softmax, in float32 whatever the precision.
    tolerance = 1e-10 if kind.startswith("opt") and case != "several" else 1e-5
    for options in ({}, {"batch": 1}, {"resume": False, "batch": 64}):
        found = ablated_hidden(context, neurons, baseline=baseline, positions=positions, **options)  # type: ignore[arg-type]
        assert list(zip(found.layers.tolist(), found.units.tolist(), strict=True)) == [
            (neuron.layer, neuron.unit) for neuron in neurons
        ]
        scale = float(found.plain.abs().max())
        torch.testing.assert_close(found.hidden, expected, atol=tolerance * scale, rtol=0)
        plain = mllm.replay([context.generation]).hidden[0, list(context.target.positions)]
        torch.testing.assert_close(found.plain, plain, atol=tolerance * scale, rtol=0)
    moved = (expected - found.plain).abs().amax((1, 2))
    assert float(moved.max()) > 1e-2 * scale
    assert (moved > 1e-4 * scale).sum() >= len(neurons) // 3


@pytest.mark.parametrize("packed", [1, 3, 64])
@pytest.mark.parametrize("family", FAMILIES)
def test_all_neurons_in_batches_of_any_size_and_with_a_picture_in_front(
    gill_folder: Path, family: str, packed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resume, "PACKED", packed)
    mllm = build(family, gill_folder, dtype=torch.float64)
    context = context_of(mllm, "several", seen=True)
    everyone = NeuronSet(tuple(Neuron(s.layer, unit) for s in mllm.ffn_sites for unit in range(s.width)))
    hidden = by_loop(context, list(everyone), positions="target", baseline=None)
    plain = mllm.replay([context.generation]).hidden[0, list(context.target.positions)]
    logits = (plain - hidden) @ mllm.unembedding.T
    picked = torch.stack([logits[:, i, token] for i, token in enumerate(context.target.token_ids)])
    expected = picked.mean(0).reshape(len(mllm.ffn_sites), -1).float()
    for batch in (1, 9, 512):
        found = Ablation(batch=batch).score(context)
        torch.testing.assert_close(found, expected, atol=1e-5 * float(expected.abs().max()), rtol=1e-5)


@pytest.mark.parametrize("case", ["one", "several", "image"])
def test_where_the_target_is_linear_it_is_gradient_times_activation(gill_folder: Path, case: str) -> None:
    mllm = with_language_model(gill_folder, "opt")
    mllm.language_model.model.decoder.final_layer_norm = nn.Identity()
    context = context_of(mllm, case)
    exact, first_order = Ablation().score(context), GradXAct().score(context)
    torch.testing.assert_close(exact[-1], first_order[-1], atol=1e-5, rtol=1e-5)
    assert float(exact[-1].abs().max()) > 0.1
    assert not torch.allclose(exact[0], first_order[0], atol=1e-2)


def test_by_hand(gill_folder: Path) -> None:
    mllm = with_language_model(gill_folder, "opt")
    decoder = mllm.language_model.model.decoder
    decoder.final_layer_norm = nn.Identity()
    last = decoder.layers[-1]
    for value in (last.fc1.weight, last.fc1.bias, last.fc2.weight):
        value.zero_()
    last.fc1.bias[5], last.fc1.bias[6] = 3.0, -1.0  # activations 3 and, below 0, none
    last.fc2.weight[0, 5], last.fc2.weight[0, 6] = 2.0, 50.0
    context = context_of(mllm, "several")
    directions = torch.zeros(3, 32, dtype=torch.float64)
    directions[:, 0] = torch.tensor([0.5, 1.0, 0.0])
    context = replace(context, target=replace(context.target, directions=directions))
    expected = torch.zeros(48)
    expected[5] = 3 * 2 * (0.5 + 1.0) / 3
    torch.testing.assert_close(Ablation().score(context)[-1], expected)
    ones = torch.ones(3, 48, dtype=torch.float64)
    found = ablated_hidden(context, NeuronSet.of([Neuron(2, 5), Neuron(2, 6)]), baseline=ones)
    lost = (found.plain - found.hidden)[:, :, 0]
    torch.testing.assert_close(lost, torch.tensor([[4.0] * 3, [-50.0] * 3], dtype=torch.float64))


def test_the_mean_is_the_reference_set_s(gill_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mllm = build("opt", gill_folder, dtype=torch.float64)
    context = context_of(mllm, "image")
    means = context.activations.mean((0, 1)).expand(2, -1) + 0.5
    asked = []

    def mean_activations(model: GILL, *, modality: str) -> Tensor:
        asked.append((model, modality))
        return means

    monkeypatch.setattr("nam.reduction.baseline.mean_activations", mean_activations)
    found = Ablation(baseline="mean").score(context)
    assert asked == [(mllm, "image")]
    neurons = [Neuron(0, 3), Neuron(1, 9), Neuron(1, 60)]
    hidden = by_loop(context, neurons, positions="target", baseline=means)
    plain = mllm.replay([context.generation]).hidden[0, list(context.target.positions)]
    expected = ((plain - hidden) * context.target.directions.double()).sum((1, 2)) / 8
    got = torch.stack([found[neuron.layer, neuron.unit] for neuron in neurons])
    torch.testing.assert_close(got, expected.float(), atol=1e-5, rtol=1e-4)


def test_what_is_at_its_baseline_already_comes_first_and_costs_nothing(gill_folder: Path) -> None:
    mllm = build("opt", gill_folder)
    context = context_of(mllm, "one")
    first, *rest = ablate(context)
    silent = (context.activations == 0).all(1).nonzero()
    assert torch.equal(torch.stack([first.layers, first.units], 1), silent)
    assert 0 < len(silent) < 128
    assert torch.equal(first.hidden, first.plain.expand(len(silent), -1, -1))
    assert sum(len(item.layers) for item in rest) == 128 - len(silent)
    own = next(iter(ablate(context, baseline=context.activations.mean(1))))
    assert len(own.layers) == 128
    assert len(ablated_hidden(context, NeuronSet(())).hidden) == 0


def test_a_sample_is_the_same_for_every_model_and_says_who_is_in_it(gill_folder: Path) -> None:
    mllm, other = build("opt", gill_folder), build("opt", gill_folder)
    other.ffn_sites[0].linear.weight.mul_(2)
    method = Ablation(neurons=20, seed=3)
    chosen = method.sampled(mllm)
    assert int(chosen.sum()) == 20
    assert torch.equal(chosen, method.sampled(other))
    assert not torch.equal(chosen, replace(method, seed=4).sampled(mllm))
    assert bool(Ablation().sampled(mllm).all())
    assert bool(Ablation(neurons=128).sampled(mllm).all())
    context = context_of(mllm, "several")
    found, everyone = method.score(context), Ablation().score(context)
    scale = float(everyone.abs().max())
    torch.testing.assert_close(found[chosen], everyone[chosen], atol=1e-5 * scale, rtol=0)
    assert float(found[chosen].abs().max()) > 1e-2 * scale
    assert not found[~chosen].any()
    assert torch.equal(found, method.score(context))


def test_half_precision_keeps_the_large_effects(gill_folder: Path) -> None:
    mllm = build("llama", gill_folder)
    generation = ask(mllm)
    target = text_target(mllm, generation, Concept(a_word(generation)))
    exact = Ablation().score(contexts_of(mllm, [generation], [target])[0])
    mllm.to(torch.bfloat16)
    rough = Ablation().score(contexts_of(mllm, [generation], [target])[0])
    assert float(torch.corrcoef(torch.stack([exact.flatten(), rough.flatten()]))[0, 1]) > 0.9


class Stop(Exception):
    pass


def hooks_of(mllm: GILL) -> int:
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in mllm.modules())


@pytest.mark.parametrize("kind", ["opt", "gemma3"])
def test_nothing_is_left_behind_when_a_resumed_pass_fails_or_is_given_up(
    gill_folder: Path, kind: str
) -> None:
    mllm = with_language_model(gill_folder, kind)
    context = context_of(mllm, "image")
    before = {key: value.clone() for key, value in mllm.state_dict().items()}
    calls = 0

    def fail(module: nn.Module, given: Any, out: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > 4:
            raise Stop

    items = ablate(context, batch=8)
    next(items)
    next(items)
    assert hooks_of(mllm) == 0
    items.close()
    handle = mllm.ffn_sites[-1].linear.register_forward_hook(fail)
    with pytest.raises(Stop):
        Ablation(batch=16).score(context)
    handle.remove()
    assert hooks_of(mllm) == 0
    assert mllm.layout is None
    after = mllm.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_model_that_cannot_go_on_is_found_out_and_replayed_when_asked(gill_folder: Path) -> None:
    mllm = with_language_model(gill_folder, "llama")
    context = context_of(mllm, "one")

    def look_at_the_first_token(module: nn.Module, given: Any, out: Tensor) -> Tensor:
        return out * (1 + out[:, :1].abs().mean(-1, keepdim=True))

    mllm.language_model.model.layers[1].register_forward_hook(look_at_the_first_token)
    context = contexts_of(mllm, [context.generation], [context.target])[0]
    with pytest.raises(ModelError, match=r"tiny computes other hidden states .*resume=false"):
        Ablation().score(context)
    neurons = some_neurons(mllm)
    found = ablated_hidden(context, neurons, resume=False)
    expected = by_loop(context, list(neurons), positions="target", baseline=None)
    torch.testing.assert_close(found.hidden, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", list(CLASSES))
def test_a_layer_is_skipped_where_its_ffn_writes_straight_into_the_stream(
    gill_folder: Path, kind: str
) -> None:
    mllm = with_language_model(gill_folder, kind)
    generation = ask(mllm)
    kept = resume.trace(mllm, generation, start=3, stop=6)
    assert resume.ffns_add_up(kept) is (kind not in ("opt_post_norm", "gemma3"))


def test_misuse_is_named(gill_folder: Path) -> None:
    mllm = build("opt", gill_folder)
    context = context_of(mllm, "one")
    with pytest.raises(InputError, match=r"no neuron L2\.U0 in 2 layers of 64"):
        ablated_hidden(context, NeuronSet.of([Neuron(2, 0)]))
    with pytest.raises(ConfigError, match=r"reduction.ablation.neurons must be at most 128 .*, got 129"):
        Ablation(neurons=129).score(context)
    for options in ({"neurons": 0}, {"batch": 0}, {"seed": -1}):
        with pytest.raises(ConfigError, match=rf"reduction.ablation.{next(iter(options))} must be .* of at"):
            Ablation(**options)  # type: ignore[arg-type]
    mllm.language_model.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(ModelError, match="attention is flash_attention_2, not eager or sdpa"):
        Ablation().score(context)


def test_answers_of_one_batch_are_scored_as_alone(gill_folder: Path) -> None:
    mllm = build("opt", gill_folder)
    generations = answers(mllm)
    targets = [text_target(mllm, one, Concept(a_word(one))) for one in generations]
    method = Ablation(positions="all")
    together = method.score_batch(contexts_of(mllm, generations, targets))
    for scores, generation, target in zip(together, generations, targets, strict=True):
        alone = method.score(contexts_of(mllm, [generation], [target])[0])
        torch.testing.assert_close(scores, alone, atol=1e-4 * float(alone.abs().max()), rtol=0)


@pytest.mark.parametrize("positions", ["target", "all"])
def test_in_single_precision(gill_folder: Path, positions: Positions) -> None:
    mllm = build("opt", gill_folder)
    context, neurons = context_of(mllm, "several"), some_neurons(mllm)
    found = ablated_hidden(context, neurons, positions=positions)
    expected = by_loop(context, list(neurons), positions=positions, baseline=None)
    torch.testing.assert_close(found.hidden, expected, atol=1e-5 * float(found.plain.abs().max()), rtol=0)


def test_the_last_layer_runs_at_the_targets_positions_alone(gill_folder: Path) -> None:
    mllm = build("opt", gill_folder)
    context, neurons = context_of(mllm, "one"), some_neurons(mllm)
    blocks, tokens = mllm.language_model.get_decoder().layers, [0, 0]
    ablated_hidden(context, neurons, positions="all")  # whether FFNs add up is found out once for a model
    hooks = [
        blocks[layer].fc1.register_forward_hook(
            lambda module, given, out, layer=layer: tokens.__setitem__(layer, tokens[layer] + len(given[0]))
        )
        for layer in (0, len(blocks) - 1)
    ]
    ablated_hidden(context, neurons, positions="all")
    for hook in hooks:
        hook.remove()
    # The answer is read once; then one row each, and one that nothing is ablated in, at one position.
    read = context.target.positions[-1] + 1
    moved = sum(neuron.layer < len(blocks) - 1 for neuron in neurons)
    assert tokens[0] == read
    assert read < tokens[-1] <= read + moved + 1
