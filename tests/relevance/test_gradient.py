"""The gradient through the sampler: against finite differences, against captum, and against itself."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from captum.attr import InputXGradient, Saliency
from torch import Tensor, nn

from nam.errors import ConfigError, InputError, ModelError
from nam.mllm.gill import GILL
from nam.mllm.gill_folder import read_gill
from nam.relevance.base import RelevanceError, RelevanceMap
from nam.relevance.gradient import GradientRelevance
from nam.types import Generation
from tests.relevance.cases import draw, hidden_of, hooks_of, square, state_of

SIGNED = GradientRelevance(signed=True)


@pytest.fixture(scope="module")
def model(gill_folder: Path) -> GILL:
    """In float64, with DDIM: DPM-Solver++ of diffusers computes in float32 whatever it is given."""
    return read_gill(folder=gill_folder, dtype="float64", sampler="ddim", steps=3)


@pytest.fixture(scope="module")
def out(model: GILL) -> Generation:
    return draw(model, "a red dog", seed=3)


@pytest.fixture
def exact(out: Generation, monkeypatch: pytest.MonkeyPatch) -> None:
    """No rounding to float32: diffusers pools the conditioning with a softmax of `.float()` values."""
    monkeypatch.setattr(Tensor, "float", lambda tensor: tensor)


def region_sum(model: GILL, generation: Generation, mask: Tensor, hidden: Tensor) -> Tensor:
    """P_M of hidden states (B, 8, H): (B,)."""
    assert generation.drawn is not None
    noise = model.diffusion.noise([generation.seed], like=hidden)
    pixels = model.drawers["image"].render(hidden, noise.expand(len(hidden), -1, -1, -1), generation.drawn)
    return (pixels * mask).sum((1, 2, 3))


@pytest.mark.usefixtures("exact")
def test_it_is_the_slope_of_the_region(model: GILL, out: Generation) -> None:
    mask, hidden, eps = square(10, 20), hidden_of(out), 1e-5
    gradient = SIGNED.pull(model, [out], mask[None]).gradients
    assert gradient.dtype == torch.float64
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        direction = torch.randn(hidden.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            high, low = (region_sum(model, out, mask, hidden + s * direction) for s in (eps, -eps))
        slope = (high - low) / (2 * eps)
        torch.testing.assert_close((gradient * direction).sum(), slope.squeeze(), rtol=1e-6, atol=1e-8)
        assert slope.abs() > 1e-4


def test_it_is_captums(model: GILL, out: Generation) -> None:
    mask = square(30, 5)
    hidden = hidden_of(out).requires_grad_()

    def forward(states: Tensor) -> Tensor:
        return region_sum(model, out, mask, states)

    slopes = Saliency(forward).attribute(hidden, abs=False)
    torch.testing.assert_close(SIGNED(model, out, mask).values, slopes[0].float(), rtol=1e-6, atol=1e-9)
    products = InputXGradient(forward).attribute(hidden).abs()[0].detach()
    low, high = products.amin(-1, keepdim=True), products.amax(-1, keepdim=True)
    found = GradientRelevance()(model, out, mask)
    torch.testing.assert_close(found.values, ((products - low) / (high - low)).float(), rtol=1e-5, atol=1e-7)
    assert found.values.amin(-1).tolist() == [0.0] * 8
    assert found.values.amax(-1).tolist() == [1.0] * 8
    pooled = products.mean(0)
    pooled = (pooled - pooled.min()) / (pooled.max() - pooled.min())
    one = GradientRelevance(aggregate="mean")(model, out, mask).values
    torch.testing.assert_close(one, pooled.float().expand(8, -1), rtol=1e-5, atol=1e-7)


def test_regions_add_up(model: GILL, out: Generation) -> None:
    left, right = square(10, 0), square(15, 30)
    parts = SIGNED(model, out, left).values + SIGNED(model, out, right).values
    torch.testing.assert_close(SIGNED(model, out, left | right).values, parts, rtol=1e-5, atol=1e-8)
    whole = torch.ones(64, 64, dtype=torch.bool)
    rest = SIGNED(model, out, ~left).values
    torch.testing.assert_close(
        SIGNED(model, out, whole).values - rest, SIGNED(model, out, left).values, rtol=1e-4, atol=1e-6
    )


def test_fewer_steps_and_checkpoints(model: GILL, out: Generation) -> None:
    mask = square(5, 5)
    # 3 guided steps: 6 forward and 6 backward passes; 6 more are recomputed for checkpoints
    full = SIGNED(model, out, mask)
    assert full.cost == 12
    saved = GradientRelevance(signed=True, checkpoint=True)(model, out, mask)
    torch.testing.assert_close(saved.values, full.values, rtol=1e-6, atol=1e-9)
    assert saved.cost == 18
    by_steps = {n: GradientRelevance(signed=True, last_steps=n)(model, out, mask) for n in (1, 2, 3, 9)}
    assert {n: found.cost for n, found in by_steps.items()} == {1: 8, 2: 10, 3: 12, 9: 12}
    assert torch.equal(by_steps[3].values, full.values)
    assert torch.equal(by_steps[9].values, full.values)
    errors = [(by_steps[n].values - full.values).norm() for n in (1, 2)]
    assert min(errors) > 1e-3 * full.values.norm()
    both = GradientRelevance(signed=True, last_steps=2, checkpoint=True)(model, out, mask)
    torch.testing.assert_close(both.values, by_steps[2].values, rtol=1e-6, atol=1e-9)
    assert both.cost == 14
    unguided = draw(model, "a cat", guidance=1.0)
    assert SIGNED(model, unguided, mask).cost == 6


@pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
def test_a_sample_does_not_depend_on_its_batch(gill_folder: Path, sampler: str) -> None:
    model = read_gill(folder=gill_folder, sampler=sampler)  # float32, as it is used
    outs = [
        draw(model, "a red dog", seed=1),
        draw(model, "two boats by the sea", seed=2, steps=2),
        draw(model, "a house", seed=3),
        draw(model, "a house", seed=3, guidance=1.0),
        model.generate(prompt="a cat", draw=False),
    ]
    masks = [square(4 * i, 8 * i) for i in range(5)]
    together = SIGNED.batch(model, outs, masks)
    for generation, mask, found in zip(outs[:4], masks, together, strict=False):
        alone = SIGNED(model, generation, mask)
        assert isinstance(found, RelevanceMap)
        assert found.values.shape == (8, 32)
        assert found.cost == alone.cost
        largest = float(alone.values.abs().max())
        torch.testing.assert_close(found.values, alone.values, rtol=0, atol=1e-4 * largest)
    assert isinstance(together[4], RelevanceError)
    assert not torch.allclose(together[2].values, together[3].values)  # type: ignore[union-attr]
    assert SIGNED.batch(model, [], []) == []


def test_float32_is_close_to_float64(gill_folder: Path, model: GILL, out: Generation) -> None:
    single = read_gill(folder=gill_folder, sampler="ddim", steps=3)
    mask = square(20, 20)
    exact, rounded = SIGNED(model, out, mask).values, SIGNED(single, out, mask).values
    torch.testing.assert_close(rounded, exact, rtol=0, atol=1e-4 * float(exact.abs().max()))


def test_a_bad_sample_leaves_the_others_alone(model: GILL, out: Generation) -> None:
    mask, hidden = square(0, 0), hidden_of(out)[0].float()
    broken = dataclasses.replace(out, hidden=hidden.index_fill(0, torch.tensor([2]), torch.nan))
    undrawn = dataclasses.replace(out, image=None, latents=None, drawn=None)
    speechless = dataclasses.replace(out, hidden=None)
    cases = [
        (out, mask, None),
        (broken, mask, "hidden states at the .IMG. positions are not finite"),
        (undrawn, mask, "no picture was drawn"),
        (speechless, mask, "no picture was drawn"),
        (out, torch.zeros(64, 64, dtype=torch.bool), "the mask is empty"),
        (out, torch.ones(32, 64, dtype=torch.bool), r"size \(64, 64\), got torch.bool \(32, 64\)"),
        (out, torch.ones(64, 64), r"expected a bool mask .* got torch.float32"),
    ]
    generations, masks, said = zip(*cases, strict=True)
    found = SIGNED.batch(model, generations, masks)
    first = found[0]
    assert isinstance(first, RelevanceMap)
    torch.testing.assert_close(first.values, SIGNED(model, out, mask).values)
    for generation, bad_mask, words, error in list(zip(generations, masks, said, found, strict=True))[1:]:
        assert isinstance(error, RelevanceError)
        with pytest.raises(RelevanceError, match=words):
            SIGNED(model, generation, bad_mask)
    with pytest.raises(InputError, match="a mask for each of 2 generations, got 1"):
        SIGNED.batch(model, [out, out], [mask])


def test_a_region_with_nan_is_an_error_of_its_sample_alone(gill: GILL) -> None:
    outs = [draw(gill, "a dog", seed=1), draw(gill, "a cat", seed=2)]
    huge = dataclasses.replace(outs[0], hidden=torch.full_like(outs[0].hidden, 3e38))  # type: ignore[arg-type]
    bad, good = SIGNED.batch(gill, [huge, outs[1]], [square(0, 0)] * 2)
    assert isinstance(bad, RelevanceError)
    assert isinstance(good, RelevanceMap)
    alone = SIGNED(gill, outs[1], square(0, 0)).values
    torch.testing.assert_close(good.values, alone, rtol=0, atol=1e-4 * float(alone.abs().max()))


def test_the_model_is_left_as_it_was(gill: GILL, monkeypatch: pytest.MonkeyPatch) -> None:
    out, mask = draw(gill, "a dog"), square(0, 0)
    before, hooks = state_of(gill), hooks_of(gill)
    expected = SIGNED(gill, out, mask)
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:  # as in a predict loop
            again = SIGNED(gill, out, mask)
        assert torch.equal(again.values, expected.values)
        assert not again.values.requires_grad
    monkeypatch.setattr(gill.diffusion, "decode", lambda latents: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        SIGNED(gill, out, mask)
    after = state_of(gill)
    assert before.keys() == after.keys()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert hooks_of(gill) == hooks
    assert all(p.grad is None and not p.requires_grad for p in gill.parameters())


def test_models_that_cannot_are_refused(gill_folder: Path, out: Generation) -> None:
    mask = square(0, 0)
    with pytest.raises(ConfigError, match=r"drawn by DDIMScheduler, .* now DPMSolverMultistepScheduler: set"):
        SIGNED(read_gill(folder=gill_folder), out, mask)
    half = read_gill(folder=gill_folder, dtype="float16", sampler="ddim")
    with pytest.raises(ConfigError, match=r"overflow in float16: set mllm\.dtype=bfloat16"):
        SIGNED(half, out, mask)
    talker = nn.Module()
    talker.name = "talker"
    with pytest.raises(ModelError, match="draws by diffusion, talker does not"):
        SIGNED(talker, out, mask)  # type: ignore[arg-type]
