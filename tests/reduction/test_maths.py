"""The methods against references written from scratch, and against captum."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from captum.attr import LayerGradientXActivation
from torch import Tensor

from nam.mllm.gill import GILL
from nam.reduction import constants, vocabulary
from nam.reduction.acu import AcU
from nam.reduction.base import contexts_of
from nam.reduction.folding import Norm
from nam.reduction.functional import final_score, log_branches, to_unit_scale
from nam.reduction.gradxact import GradXAct
from nam.reduction.nam import Nam
from nam.reduction.vocabulary import first_tokens
from nam.targets import image_target, text_target
from nam.types import Concept, Generation
from tests.families import FAMILIES, build
from tests.reduction.cases import a_word, relevance


@pytest.fixture(scope="module", params=FAMILIES)
def mllm(request: pytest.FixtureRequest, gill_folder: Path) -> GILL:
    return build(request.param, gill_folder)


def answer(mllm: GILL) -> Generation:
    return mllm.generate(prompt="a cat at night", draw=False, max_new_tokens=9, seed=2)


def read_activations(mllm: GILL, ids: list[int]) -> list[Tensor]:
    """(T, d) of each layer: what enters the FFN's last linear in transformers' own forward pass."""
    seen: list[Tensor] = []
    linears = [m for name, m in mllm.language_model.named_modules() if name.endswith(("fc2", "down_proj"))]
    handles = [m.register_forward_hook(lambda m, given, out: seen.append(given[0])) for m in linears]
    with torch.no_grad():
        mllm.language_model(torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    return [values.reshape(len(ids), -1) for values in seen]


def by_hand(mllm: GILL, generation: Generation, words: set[str]) -> Tensor:
    """NAM for words, loop by loop: eq. 6, eq. 7, the mean over positions, eq. 4."""
    ids = list(generation.token_ids)
    forms = {mllm.tokenizer.convert_tokens_to_ids(word) for word in words}
    start, stop = generation.spans.answer.start, generation.spans.answer.stop
    at = [t - 1 for t in range(start, stop) if ids[t] in forms]
    head = mllm.language_model.lm_head.weight.double()
    linears = [m for name, m in mllm.language_model.named_modules() if name.endswith(("fc2", "down_proj"))]
    effects, means = [], []
    for activations, linear in zip(read_activations(mllm, ids), linears, strict=True):
        total = torch.zeros(linear.in_features, dtype=torch.float64)
        for position in at:
            for k, a in enumerate(activations[position].double()):
                logits = a * (head @ linear.weight[:, k].double())
                if int(logits.argmax()) in forms:
                    total[k] += logits[ids[position + 1]]
        effects.append(total / len(at))
        means.append(activations[at].double().mean(0))
    s, a = torch.stack(effects), torch.stack(means)
    return torch.maximum(s.exp() / s.exp().sum(), a.exp() / a.exp().sum()).log()


def test_nam_for_words_is_direct_logit_attribution(mllm: GILL) -> None:
    generation = answer(mllm)
    # Every form is one that some neuron writes first, so that eq. 7 lets some pass and not others.
    said = a_word(generation)
    top = first_tokens(mllm, norm="ignore", end="top")
    first = [mllm.tokenizer.convert_ids_to_tokens(int(token)) for token in top.flatten()[:60]]
    forms = tuple(dict.fromkeys(word for word in first if word.isalpha()))[:25]
    target = text_target(mllm, generation, Concept(said, forms))
    context = contexts_of(mllm, [generation], [target])[0]
    s, _ = Nam().branches(context)
    assert 0 < int((s != 0).sum()) < s.numel() / 2
    expected = by_hand(mllm, generation, {said, *forms})
    torch.testing.assert_close(Nam().score(context).double(), expected, atol=1e-4, rtol=0)


def test_nam_for_pictures_is_step_two_of_the_paper(mllm: GILL) -> None:
    generation = mllm.generate(prompt="a dog", draw=True, max_new_tokens=2, steps=1, guidance=1.0)
    given = relevance(seed=3, signed=False)
    context = contexts_of(mllm, [generation], [image_target(generation, given)])[0]
    at = list(generation.spans.img)
    effects, means = [], []
    for activations, site in zip(
        read_activations(mllm, list(generation.token_ids)), mllm.ffn_sites, strict=True
    ):
        a = activations[at].double()
        effects.append((a * (given.values.double() @ site.linear.weight.double())).mean(0))
        means.append(a.mean(0))
    s, a = torch.stack(effects), torch.stack(means)
    expected = torch.maximum(s.exp() / s.exp().sum(), a.exp() / a.exp().sum()).log()
    torch.testing.assert_close(Nam().score(context).double(), expected, atol=1e-4, rtol=0)
    plain = image_target(generation, relevance(seed=3))
    assert context.target.signed is False
    assert plain.signed is True


def test_acu_is_nam_s_effect_without_the_gate(mllm: GILL) -> None:
    generation = answer(mllm)
    target = text_target(mllm, generation, Concept(a_word(generation)))
    context = contexts_of(mllm, [generation], [target])[0]
    ungated, _ = Nam(gate="none").branches(context)
    torch.testing.assert_close(AcU().score(context), ungated)
    gated, _ = Nam(gate="token").branches(context)
    kept = gated != 0
    assert bool((~kept).any())
    picture = mllm.generate(prompt="a dog", draw=True, max_new_tokens=2, steps=1, guidance=1.0)
    context = contexts_of(mllm, [picture], [image_target(picture, relevance(seed=1))])[0]
    sums = torch.stack([site.linear.weight.sum(0) for site in mllm.ffn_sites])
    ones = AcU(region=False).score(context)
    torch.testing.assert_close(ones, context.activations.mean(1) * sums, atol=1e-4, rtol=1e-4)
    # By default pictures have the same direction for every method.
    ungated, _ = Nam().branches(context)
    torch.testing.assert_close(AcU().score(context), ungated)
    assert not torch.allclose(AcU().score(context), ones)


def test_gradient_times_activation_is_captum_s(mllm: GILL) -> None:
    generation = answer(mllm)
    target = text_target(mllm, generation, Concept(a_word(generation)))
    found = GradXAct().score(contexts_of(mllm, [generation], [target])[0])
    embeds = mllm.language_model.get_input_embeddings()(torch.tensor([generation.token_ids]))
    at = list(target.positions)

    def logits(inputs: Tensor) -> Tensor:
        all_logits = mllm.language_model(inputs_embeds=inputs).logits[:, at]
        return all_logits[:, range(len(at)), list(target.token_ids)].sum(1)

    for layer, site in enumerate(mllm.ffn_sites):
        captum = LayerGradientXActivation(logits, site.linear)
        values = captum.attribute(embeds.requires_grad_(), attribute_to_layer_input=True)
        expected = values.reshape(len(generation.token_ids), -1)[at].mean(0).detach()
        torch.testing.assert_close(found[layer], expected, atol=1e-4, rtol=1e-3)
        assert float(expected.abs().max()) > 0.01


def test_a_neuron_s_gradient_in_the_last_layer_is_the_folded_direction(mllm: GILL) -> None:
    picture = mllm.generate(prompt="a dog", draw=True, max_new_tokens=2, steps=1, guidance=1.0)
    context = contexts_of(mllm, [picture], [image_target(picture, relevance(seed=1))])[0]
    # Only the layer that no other follows has no indirect path, and a held scale drops what the norm bends.
    direct = AcU(norm="fold", region=True).score(context)[-1]
    total = GradXAct().score(context)[-1]
    assert float(torch.corrcoef(torch.stack([direct, total]))[0, 1]) > 0.7


@pytest.mark.parametrize("norm", ["ignore", "fold"])
def test_first_words_in_chunks_are_an_argmax_over_the_vocabulary(
    mllm: GILL, norm: Norm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocabulary, "CHUNK", 64 * 37)
    constants._KNOWN.pop(mllm, None)
    head = mllm.unembedding.double()
    module = mllm.final_norm
    assert module is not None
    if norm == "fold":
        head = head * module.weight.double()
        if isinstance(module, torch.nn.LayerNorm):
            head = head - head.mean(1, keepdim=True)
    for end, pick in (("top", torch.argmax), ("bottom", torch.argmin)):
        found = first_tokens(mllm, norm=norm, end=end)  # type: ignore[arg-type]
        expected = torch.stack([pick(head @ site.linear.weight.double(), dim=0) for site in mllm.ffn_sites])
        assert torch.equal(found, expected)
        assert first_tokens(mllm, norm=norm, end=end) is found  # type: ignore[arg-type]


def test_first_words_follow_the_weights(gill: GILL) -> None:
    before = first_tokens(gill, norm="ignore", end="top").clone()
    horse = gill.tokenizer.convert_tokens_to_ids("horse")
    with torch.no_grad():
        gill.ffn_sites[1].linear.weight[:, 5] = 3 * gill.unembedding[horse] / gill.unembedding[horse].norm()
        gill.unembedding[horse] *= 3
    after = first_tokens(gill, norm="ignore", end="top")
    assert int(after[1, 5]) == horse
    assert int(before[1, 5]) != horse


def test_eq_4_by_hand_and_beyond_the_range_of_exp() -> None:
    s, a = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]]), torch.tensor([[math.log(5), 0.0], [0.0, 0.0]])
    expected = torch.tensor([[5 / 8, 3 / 6], [1 / 6, 1 / 6]])
    torch.testing.assert_close(final_score(s, a).exp(), expected)
    assert bool(final_score(1e4 * s, -1e4 * a).isfinite().all())
    for branch in log_branches(s, a):
        assert float(branch.exp().sum()) == pytest.approx(1.0)


def test_eq_4_by_its_branches_and_at_unit_scale(mllm: GILL) -> None:
    generation = answer(mllm)
    target = text_target(mllm, generation, Concept(a_word(generation)))
    context = contexts_of(mllm, [generation], [target])[0]
    direct, activation = (Nam(gate="none", branch=b).score(context) for b in ("direct", "activation"))
    assert torch.equal(torch.maximum(direct, activation), Nam(gate="none").score(context))
    s, a = Nam(gate="none").branches(context)
    for branch, values in (("direct", s), ("activation", a)):
        values = values.double() / values.double().square().mean().sqrt()
        expected = values - values.flatten().logsumexp(0)
        found = Nam(gate="none", scale="unit", branch=branch).score(context)  # type: ignore[arg-type]
        torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=0)
    zeros = torch.zeros(2, 3)
    assert torch.equal(to_unit_scale(zeros), zeros)


def test_aggregations_differ_and_agree_on_one_position(mllm: GILL) -> None:
    picture = mllm.generate(prompt="a dog", draw=True, max_new_tokens=2, steps=1, guidance=1.0)
    context = contexts_of(mllm, [picture], [image_target(picture, relevance(seed=1, signed=False))])[0]
    mean, largest, each = (Nam(aggregate=how).score(context) for how in ("mean", "max", "each"))
    assert not torch.allclose(mean, largest, atol=1e-3)
    assert not torch.allclose(mean, each, atol=1e-3)
    generation = answer(mllm)
    target = text_target(mllm, generation, Concept(a_word(generation)))
    one = contexts_of(mllm, [generation], [target])[0]
    if len(target.positions) == 1:
        torch.testing.assert_close(Nam(aggregate="each").score(one), Nam(aggregate="max").score(one))
