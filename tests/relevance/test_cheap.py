"""`levels` and `attention` against finite differences and plain loops of their own objectives, in float64."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nam.errors import ConfigError, ModelError
from nam.mllm.gill import GILL
from nam.mllm.gill_folder import read_gill
from nam.relevance.attention import AttentionRelevance, shrink
from nam.relevance.gradient import GradientRelevance
from nam.relevance.levels import LevelsRelevance
from nam.relevance.region import region_in_latents
from nam.types import Generation
from tests.relevance.cases import draw, hidden_of, hooks_of, square

EPS = 1e-5


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """No rounding to float32: diffusers pools the conditioning with a softmax of `.float()` values."""
    monkeypatch.setattr(Tensor, "float", lambda tensor: tensor)


@pytest.fixture(params=["epsilon", "v_prediction", "sample"])
def model(request: pytest.FixtureRequest, gill_folder: Path) -> GILL:
    found = read_gill(folder=gill_folder, dtype="float64", sampler="ddim", steps=2)
    found.diffusion.scheduler.register_to_config(prediction_type=request.param)
    return found


def drawn(model: GILL, **settings: object) -> Generation:
    """A generation with moderate latents: untrained U-Nets draw such that the decoder's tanh is flat."""
    latents = torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(7))
    return dataclasses.replace(draw(model, "a red dog", seed=3, **settings), latents=latents)


def level_of(model: GILL, level: float) -> tuple[int, float, float]:
    """Timestep, a and s, from the betas of the cosine schedule itself (Nichol and Dhariwal 2021)."""
    assert model.diffusion.scheduler.config.beta_schedule == "squaredcos_cap_v2"

    def bar(share: float) -> float:
        return math.cos((share + 0.008) / 1.008 * math.pi / 2) ** 2

    time = round(level * 999)
    kept = math.prod(1 - min(1 - bar((i + 1) / 1000) / bar(i / 1000), 0.999) for i in range(time + 1))
    return time, math.sqrt(kept), math.sqrt(1 - kept)


def estimate(model: GILL, y: Tensor, level: float, hidden: Tensor) -> Tensor:
    """The picture that the U-Net sees in y = x / a."""
    time, a, s = level_of(model, level)
    unet = model.diffusion.parts.get("unet", like=y)
    output = unet(a * y, time, encoder_hidden_states=model.drawers["image"].conditioning(hidden)).sample
    kind = model.diffusion.scheduler.config.prediction_type
    if kind == "sample":
        return output
    return y - s / a * output if kind == "epsilon" else a * (a * y) - s * output


def pushed_forward(
    model: GILL, out: Generation, mask: Tensor, levels: tuple[float, ...], direction: Tensor, guidance: float
) -> Tensor:
    """What a change of the hidden states does to P_M, carried FORWARD from level to level by differences."""
    assert out.latents is not None
    hidden, latents = hidden_of(out), out.latents[None].double()
    noise = model.diffusion.noise([out.seed], like=latents)
    sigmas = [s / a for _, a, s in (level_of(model, level) for level in levels)]
    change_of_y = torch.zeros_like(latents)
    for index, level in enumerate(levels):
        y, kept = latents + sigmas[index] * noise, level_of(model, level)[1] ** 2
        by_hidden = estimate(model, y, level, hidden + EPS * direction)
        by_hidden = by_hidden - estimate(model, y, level, hidden - EPS * direction)
        by_y = estimate(model, y + EPS * change_of_y, level, hidden)
        by_y = by_y - estimate(model, y - EPS * change_of_y, level, hidden)
        change = guidance * (by_hidden + by_y) / (2 * EPS) - (guidance - 1) * kept * change_of_y
        if index + 1 < len(levels):
            ratio = sigmas[index + 1] / sigmas[index]
            change_of_y = (1 - ratio) * change + ratio * change_of_y
    pixels = model.diffusion.decode(latents + EPS * change) - model.diffusion.decode(latents - EPS * change)
    return (pixels * mask).sum() / (2 * EPS)


@pytest.mark.parametrize("levels", [(0.4,), (0.65, 0.25), (0.9, 0.6, 0.3, 0.1)])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_levels_are_the_transpose_of_what_a_change_does(
    model: GILL, levels: tuple[float, ...], guidance: float
) -> None:
    out, mask = drawn(model, guidance=guidance), square(10, 20)
    whole = LevelsRelevance(signed=True, levels=levels, through="whole")
    found = whole.pull(model, [out], mask[None])
    assert found.gradients.dtype == torch.float64
    assert found.cost == 2 * len(levels)
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        direction = torch.randn(1, 8, 32, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            slope = pushed_forward(model, out, mask, levels, direction, guidance)
        # the schedule's tables are float32
        torch.testing.assert_close((found.gradients * direction).sum(), slope, rtol=1e-4, atol=1e-8)
        assert slope.abs() > 1e-4


def test_one_unguided_step_from_noise_is_the_samplers_own(gill_folder: Path) -> None:
    """Where the picture is drawn in one unguided step, the level it starts from gives the full gradient, but
    that the latent is mixed with the noise as if the schedule began with noise alone."""
    model = read_gill(folder=gill_folder, dtype="float64", sampler="ddim", steps=1)
    model.diffusion.scheduler.register_to_config(timestep_spacing="trailing")
    out, mask = draw(model, "a red dog", seed=3, guidance=1.0), square(10, 20)
    full = GradientRelevance(signed=True)(model, out, mask)
    provider = LevelsRelevance(signed=True, levels=(0.9999,), through="whole")
    level = provider(model, out, mask)
    assert (full.cost, level.cost) == (2, 2)
    similarity = torch.cosine_similarity(full.values.flatten(), level.values.flatten(), dim=0)
    assert similarity > 0.999


@contextmanager
def way_up_alone(model: GILL, run: Callable[[], Tensor]) -> Iterator[None]:
    """Forward passes whose way up starts from what the way down gave in `run`."""
    unet: Any = model.diffusion.parts.get("unet", like=model.unembedding)
    seen: list[dict[str, Any]] = []

    def save(block: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        assert not given
        kept = ("res_hidden_states_tuple",) if seen else ("hidden_states", "res_hidden_states_tuple")
        seen.append({name: named[name] for name in kept})

    def put(block: Any, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        return given, named | before[block]

    handles = [block.register_forward_pre_hook(save, with_kwargs=True) for block in unet.up_blocks]
    run()
    for handle in handles:
        handle.remove()
    before = dict(zip(unet.up_blocks, seen, strict=True))
    handles = [block.register_forward_pre_hook(put, with_kwargs=True) for block in unet.up_blocks]
    yield
    for handle in handles:
        handle.remove()


def test_the_way_down_can_be_held(model: GILL) -> None:
    out, mask, level = drawn(model), square(10, 20), 0.4
    up = LevelsRelevance(signed=True, levels=(level,))
    found = up.pull(model, [out], mask[None])
    assert found.cost == 2
    assert out.latents is not None
    hidden, latents = hidden_of(out), out.latents[None].double()
    _, a, s = level_of(model, level)
    y = latents + s / a * model.diffusion.noise([out.seed], like=latents)
    direction = torch.randn(1, 8, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad(), way_up_alone(model, lambda: estimate(model, y, level, hidden)):
        slope = pushed_forward(model, out, mask, (level,), direction, guidance=3.0)
    torch.testing.assert_close((found.gradients * direction).sum(), slope, rtol=1e-4, atol=1e-8)
    whole = dataclasses.replace(up, through="whole").pull(model, [out], mask[None])
    assert not torch.allclose(found.gradients, whole.gradients, rtol=0.1)
    assert torch.is_grad_enabled()
    assert hooks_of(model) == 0


@pytest.mark.parametrize("at_once", [2**16, 64 * 64, 1])
def test_a_region_is_pulled_back_through_the_decoder(
    model: GILL, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By finite differences, whatever is decoded together."""
    monkeypatch.setattr("nam.relevance.region.AT_ONCE", at_once)
    random = torch.Generator().manual_seed(7)
    latents = torch.randn(3, 4, 16, 16, generator=random, dtype=torch.float64)
    masks = torch.stack([square(4, 8, side=8), square(0, 0, side=40), square(30, 50, side=14)])
    step = 1e-6 * torch.randn(latents.shape, generator=random, dtype=torch.float64)

    def measured(at: Tensor) -> Tensor:
        with torch.no_grad():
            return (model.diffusion.decode(at) * masks[:, None]).sum((1, 2, 3))

    change = (measured(latents + step) - measured(latents - step)) / 2
    slopes = region_in_latents(model.diffusion, latents, masks)
    torch.testing.assert_close((slopes * step).sum((1, 2, 3)), change, rtol=1e-5, atol=1e-12)


def attention_objective(
    model: GILL, out: Generation, mask: Tensor, level: float, hidden: Tensor, shares: Tensor
) -> Tensor:
    carried = model.drawers["image"].conditioning(hidden) - model.diffusion.uncond(like=hidden)
    return (shares * carried.square().sum(-1)).sum() / 2


def shares_by_hand(model: GILL, out: Generation, mask: Tensor, level: float) -> Tensor:
    """The region's mean attention to each position, read by attention processors that save their maps."""
    maps: list[Tensor] = []

    class Saving:
        def __call__(self, attn, hidden_states, encoder_hidden_states=None, **_):  # type: ignore[no-untyped-def]
            context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
            size = (*hidden_states.shape[:1], -1, attn.heads, attn.to_q.out_features // attn.heads)
            q, k, v = (f(x).reshape(size) for f, x in
                       ((attn.to_q, hidden_states), (attn.to_k, context), (attn.to_v, context)))  # fmt: skip
            weights = (torch.einsum("bphd,bqhd->bhpq", q, k) / size[-1] ** 0.5).softmax(-1)
            if encoder_hidden_states is not None:
                maps.append(weights[0])
            mixed = torch.einsum("bhpq,bqhd->bphd", weights, v).flatten(2)
            return attn.to_out[1](attn.to_out[0](mixed))

    assert out.latents is not None
    latents = out.latents[None].double()
    unet = model.diffusion.parts.get("unet", like=latents)
    before = dict(unet.attn_processors)
    unet.set_attn_processor(Saving())
    sigma = level_of(model, level)[2] / level_of(model, level)[1]
    estimate(model, latents + sigma * model.diffusion.noise([out.seed], like=latents), level, hidden_of(out))
    unet.set_attn_processor(before)
    total = torch.zeros(maps[0].shape[-1], dtype=torch.float64)
    for weights in maps:
        side = math.isqrt(weights.shape[1])
        cell = 64 // side
        inside = mask.double().reshape(side, cell, side, cell).mean((1, 3)).flatten()
        for pixel in range(side * side):
            total += inside[pixel] / inside.sum() * weights[:, pixel].mean(0)
    return total / len(maps)


def test_attention_is_the_slope_of_what_the_region_reads(model: GILL) -> None:
    out, mask = drawn(model), square(11, 21)
    found = AttentionRelevance(signed=True, level=0.4).pull(model, [out], mask[None])
    assert found.cost == 1
    hidden = hidden_of(out)
    with torch.no_grad():
        shares = shares_by_hand(model, out, mask, 0.4)
        torch.testing.assert_close(shares.sum(), torch.ones((), dtype=torch.float64))
        generator = torch.Generator().manual_seed(0)
        for _ in range(2):
            direction = torch.randn(1, 8, 32, generator=generator, dtype=torch.float64)
            high, low = (
                attention_objective(model, out, mask, 0.4, hidden + sign * EPS * direction, shares)
                for sign in (1, -1)
            )
            slope = (high - low) / (2 * EPS)
            torch.testing.assert_close((found.gradients * direction).sum(), slope, rtol=1e-4, atol=1e-8)


def test_regions_shrink_by_area() -> None:
    mask = torch.zeros(1, 4, 8, dtype=torch.bool)
    mask[0, :2, :2] = True
    mask[0, 3, 7] = True
    expected = [[1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.25]]
    assert shrink(mask, 8).tolist() == expected
    assert shrink(mask, 2).tolist() == [[0.25, 0.0625]]


@pytest.mark.parametrize("levels", [(), (0.5, 0.5), (0.2, 0.6), (1.0, 0.5), (0.5, 0.0)])
def test_levels_that_make_no_sense_are_refused(levels: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match=r"relevance\.levels must fall from below 1 .* got \["):
        LevelsRelevance(levels=levels)


def test_a_part_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"relevance\.through must be 'up' or 'whole', got 'down'"):
        LevelsRelevance(through="down")  # type: ignore[arg-type]


def test_a_level_outside_the_schedule_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"relevance\.level must be between 0 and 1, got 1\.5"):
        AttentionRelevance(level=1.5)


def test_schedulers_and_unets_without_what_it_takes_are_refused(
    gill_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = read_gill(folder=gill_folder)
    out, mask = draw(model, "a dog", steps=1), square(0, 0)
    model.diffusion.scheduler.register_to_config(prediction_type="flow")
    with pytest.raises(ModelError, match="prediction_type 'flow' is unknown; set relevance=gradient"):
        LevelsRelevance()(model, out, mask)
    unet = model.diffusion.parts.get("unet", like=model.unembedding)
    monkeypatch.setattr(type(unet), "modules", lambda self: iter(()))
    with pytest.raises(ModelError, match="needs cross-attention, the U-Net of tiny_random has none"):
        AttentionRelevance()(model, out, mask)
    monkeypatch.delattr(model.diffusion.scheduler, "alphas_cumprod")
    for provider in (LevelsRelevance(), AttentionRelevance()):
        with pytest.raises(ModelError, match=r"has no alphas_cumprod: set mllm\.sampler=ddim or dpm"):
            provider(model, out, mask)
