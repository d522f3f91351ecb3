"""The truth of single neurons against plain loops: hooks, a whole replay, and the picture drawn again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from nam.errors import ConfigError, InputError
from nam.evaluate.drawn import LevelsProbe, PictureProbe, SoftEvidence
from nam.evaluate.faithfulness import TextProbe, agreement, effects_of
from nam.evaluate.judge import load_judge
from nam.hooks import Intervention, zero
from nam.mllm.gill import GILL
from nam.reduction.ablated import Positions
from nam.reduction.base import Context, contexts_of
from nam.types import Generation, Neuron, NeuronSet
from tests.evaluate.tiny_judge import write_judge
from tests.families import FAMILIES, build
from tests.reduction.cases import targets_of

NEURONS = NeuronSet.of([Neuron(0, 3), Neuron(0, 17), Neuron(1, 0), Neuron(1, 40)])
REGION = np.zeros((64, 64), bool)
REGION[10:40, 20:50] = True


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest, gill_folder: Path) -> GILL:
    # Double precision: the effect of one neuron of a random model is small.
    return build(request.param, gill_folder, dtype=torch.float64)


def drawn(model: GILL, *, guidance: float = 3.0) -> Generation:
    found: Generation = model.generate(
        "draw a red horse", seed=5, draw=True, max_new_tokens=5, steps=2, guidance=guidance
    )
    return found


def context_of(model: GILL, generation: Generation, modality: str) -> Context:
    targets = targets_of(model, [generation], modality)  # type: ignore[arg-type]
    return contexts_of(model, [generation], targets)[0]


def hidden_without(context: Context, neuron: Neuron, *, where: Sequence[int] | None = None) -> Tensor:
    """Last hidden states at the target's positions of a whole replay with one neuron silenced at positions,
    there by default."""
    where = [context.target.positions if where is None else where]
    watch = Intervention(context.mllm, change=zero, neurons=NeuronSet.of([neuron]), where=where)
    with torch.no_grad():
        replayed = context.mllm.replay([context.generation], record=watch)
    return replayed.hidden[0, list(context.target.positions)]


def plain_hidden(context: Context) -> Tensor:
    with torch.no_grad():
        return context.mllm.replay([context.generation]).hidden[0, list(context.target.positions)]


@pytest.mark.parametrize("positions", ["target", "all"])
def test_a_words_effects_are_those_of_a_loop_over_whole_replays(model: GILL, positions: Positions) -> None:
    context = context_of(model, drawn(model), "text")
    probe = TextProbe(positions=positions)
    where = None if positions == "target" else range(len(context.generation.token_ids))
    found = dict(zip(("logit", "logprob"), effects_of(context, probe, NEURONS).values(), strict=True))
    before = plain_hidden(context) @ model.unembedding.T
    ids = list(context.target.token_ids)
    for neuron in NEURONS:
        after = hidden_without(context, neuron, where=where) @ model.unembedding.T
        logit = np.mean([float(before[i, t] - after[i, t]) for i, t in enumerate(ids)])
        p, q = before.softmax(-1), after.softmax(-1)
        logprob = np.mean([float(p[i, t].log() - q[i, t].log()) for i, t in enumerate(ids)])
        assert found["logit"][neuron.layer, neuron.unit] == pytest.approx(logit, rel=1e-4, abs=1e-9)
        assert found["logprob"][neuron.layer, neuron.unit] == pytest.approx(logprob, rel=1e-4, abs=1e-9)
    others = np.isfinite(found["logit"]).sum()
    assert others == len(NEURONS)


def test_a_pictures_effects_are_those_of_drawing_it_again(model: GILL, tmp_path: Path) -> None:
    generation = drawn(model)
    context = context_of(model, generation, "image")
    judge = load_judge(write_judge(tmp_path))
    probe = PictureProbe(region=REGION, evidence=SoftEvidence(judge, "horse"), batch=3)
    found = effects_of(context, probe, NEURONS)
    assert generation.drawn is not None

    def render(hidden: Tensor) -> Tensor:
        noise = model.diffusion.noise([5], like=hidden)
        with torch.no_grad():
            return model.drawers["image"].render(hidden[None], noise, generation.drawn)[0]  # type: ignore[arg-type]

    before = render(plain_hidden(context))
    moved = 0
    for neuron in NEURONS:
        after = render(hidden_without(context, neuron))
        lost = pasted = 0.0
        composite = before.clone()
        for y in range(10, 40):
            for x in range(20, 50):
                lost += float((before[:, y, x] - after[:, y, x]).sum())
                pasted += float((before[:, y, x] - after[:, y, x]).abs().sum())
                composite[:, y, x] = after[:, y, x]
        place = neuron.layer, neuron.unit
        assert found["pixels"][place] == pytest.approx(lost, rel=1e-3, abs=1e-7)
        assert found["change"][place] == pytest.approx(pasted / (3 * 30 * 30), rel=1e-3, abs=1e-9)
        pictures = torch.stack([before, composite]).clamp(0, 1).float()
        with torch.no_grad():
            logits = judge.model(pixel_values=pictures * 2 - 1).logits
        odds = logits[:, 12 * 9 : 13 * 9]  # horse is the last noun: absent, then eight colours
        there = odds[:, 1:].double().logsumexp(1) - odds[:, 0]
        lead = float(there[0] - there[1])
        assert found["evidence"][place] == pytest.approx(lead, rel=1e-3, abs=1e-6 * float(odds.abs().max()))
        moved += pasted > 0
    assert moved


def test_the_proxy_is_a_sampler_of_its_levels_along_the_drawn_path(model: GILL) -> None:
    generation = drawn(model)
    context = context_of(model, generation, "image")
    found = effects_of(context, LevelsProbe(region=REGION, levels=(0.7, 0.3)), NEURONS)
    finished, noise = generation.latents, model.diffusion.noise([5], like=model.unembedding)
    assert finished is not None
    finished = finished[None].to(noise)
    unet = model.diffusion.parts.get("unet", like=noise)
    times = [round(level * 999) for level in (0.7, 0.3)]
    kept = [model.diffusion.scheduler.alphas_cumprod[time].double() for time in times]
    empty = model.diffusion.uncond(like=noise)

    def estimate(x: Tensor, index: int, cond: Tensor) -> Tensor:
        """x_0 of classifier-free guidance 3, from the U-Net's velocity."""
        a, s = kept[index].sqrt(), (1 - kept[index]).sqrt()
        v = [unet(x, torch.tensor(times[index]), encoder_hidden_states=c).sample for c in (empty, cond)]
        return a * x - s * (v[0] + 3.0 * (v[1] - v[0]))

    def anchor(index: int) -> Tensor:
        return kept[index].sqrt() * finished + (1 - kept[index]).sqrt() * noise

    def ddim(x: Tensor, picture: Tensor) -> Tensor:
        """From the first level to the second."""
        implied = (x - kept[0].sqrt() * picture) / (1 - kept[0]).sqrt()
        return kept[1].sqrt() * picture + (1 - kept[1]).sqrt() * implied

    with torch.no_grad():
        cond = model.drawers["image"].conditioning(plain_hidden(context)[None])
        firsts = estimate(anchor(0), 0, cond)
        second = estimate(anchor(1), 1, cond)
        before = model.diffusion.decode(finished)
        for neuron in NEURONS:
            changed = model.drawers["image"].conditioning(hidden_without(context, neuron)[None])
            step = ddim(anchor(0), estimate(anchor(0), 0, changed)) - ddim(anchor(0), firsts)
            last = estimate(anchor(1) + step, 1, changed) - second
            after = model.diffusion.decode(finished + last)
            lost = float(((before - after) * torch.from_numpy(REGION)).sum())
            place = neuron.layer, neuron.unit
            assert found["proxy_pixels"][place] == pytest.approx(lost, rel=1e-3, abs=1e-7)


def test_neurons_that_do_not_fire_have_no_effect_and_are_not_probed(gill_folder: Path) -> None:
    context = context_of(model := build("opt", gill_folder), drawn(model), "text")
    seen: list[int] = []

    class Counting(TextProbe):
        def __call__(self, context: Context, plain: Tensor, hidden: Tensor) -> dict[str, Tensor]:
            seen.append(len(hidden))
            return dict(super().__call__(context, plain, hidden))

    found = effects_of(context, Counting())
    fires = (context.activations != 0).any(1).numpy()
    assert 0 < fires.sum() < fires.size
    assert sum(seen) == fires.sum()
    assert (found["logit"][~fires] == 0).all()
    assert (found["logit"][fires] != 0).any()


def test_targets_and_regions_that_do_not_fit_are_refused(gill_folder: Path) -> None:
    model = build("opt", gill_folder)
    generation = drawn(model)
    with pytest.raises(InputError, match="expected the target of a word"):
        effects_of(context_of(model, generation, "image"), TextProbe(), NEURONS)
    with pytest.raises(InputError, match="expected a region"):
        effects_of(context_of(model, generation, "image"), PictureProbe(region=REGION[:9]), NEURONS)
    with pytest.raises(ConfigError, match="levels must fall"):
        LevelsProbe(region=REGION, levels=(0.2, 0.6))


def test_agreement_by_hand() -> None:
    truth = np.array([[3.0, 0.0, np.nan], [-1.0, 1.0, np.nan]], np.float32)
    scores = np.array([[0.1, 0.2, 9.0], [-5.0, 0.4, 9.0]], np.float32)
    found = agreement(scores, truth, name="logit", ks=(1, 2, 3))
    assert found["spearman[logit]"] == pytest.approx(0.4)  # ranks 4 2 1 3 against 2 3 1 4: 1 - 6 * 6 / 60
    assert found["recall@1[logit]"] == 0
    assert found["recall@2[logit]"] == 0.5
    assert "recall@3[logit]" not in found  # more than half of the four known neurons
    constant = agreement(np.zeros_like(scores), truth, name="logit", ks=())
    assert constant == {"pearson[logit]": 0.0, "spearman[logit]": 0.0}


def test_sizes_are_held_against_sizes() -> None:
    truth = np.array([[3.0, 0.0, 2.0, 1.0]], np.float32)
    signed = np.array([[-3.0, 0.0, 2.0, -1.0]], np.float32)
    assert agreement(signed, truth, name="change", ks=(2,))["spearman[change]"] == pytest.approx(1)
    assert agreement(signed, truth, name="pixels", ks=(2,))["spearman[pixels]"] < 0.5
    logarithms = np.array([[-1.0, -9.0, -2.0, -3.0]], np.float32)
    assert agreement(logarithms, truth, name="change", ks=(2,))["spearman[change]"] == pytest.approx(1)


def test_recall_of_a_weighted_sample_is_left_out_where_it_is_too_coarse() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(1, 60)).astype(np.float32)
    weights = np.where(np.arange(60) < 20, 1.0, 10.0)[None]
    found = agreement(truth, truth, name="pixels", ks=(10, 30, 100, 300), weights=weights)
    assert {name for name in found if name.startswith("recall")} == {
        "recall@30[pixels]",
        "recall@100[pixels]",
    }
    assert found["recall@30[pixels]"] > 1 - 1 / 12
    ones = agreement(truth, truth, name="pixels", ks=(10,), weights=np.ones((1, 60)))
    assert ones["recall@10[pixels]"] == pytest.approx(1)
