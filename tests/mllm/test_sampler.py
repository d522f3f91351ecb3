"""Denoising against a DDIM written out by hand, and its gradients against finite differences."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nam.errors import ConfigError
from nam.mllm.gill import GILL
from nam.mllm.gill_folder import read_gill
from nam.mllm.sampler import noise_of, read_scheduler
from tests.tiny_random import CONFIG


@pytest.fixture(scope="module")
def double_gill(gill_folder: Path) -> GILL:
    return read_gill(folder=gill_folder, dtype="float64", sampler="ddim", steps=3)


def hidden_of(model: GILL) -> Tensor:
    hidden = model.generate(prompt="a red dog", draw=True, steps=1, max_new_tokens=2).hidden
    assert hidden is not None
    return hidden[None].double()


def test_each_seeds_noise_is_its_own() -> None:
    assert torch.equal(noise_of([3, 5], (2, 4))[1], noise_of([5], (2, 4))[0])
    assert not torch.equal(noise_of([3], (2, 4)), noise_of([5], (2, 4)))


@torch.no_grad()
def test_samples_are_those_of_ddim_by_hand(double_gill: GILL) -> None:
    diffusion = double_gill.diffusion
    cond = double_gill.drawers["image"].conditioning(hidden_of(double_gill))
    noise = diffusion.noise([0], like=cond)
    got = diffusion.sample(cond, noise, diffusion.settings(steps=5, guidance=2.5))

    unet, uncond = diffusion.parts.get("unet", like=cond), diffusion.uncond(like=cond)
    alphas = diffusion.scheduler.alphas_cumprod.double()
    times = [999, 799, 599, 399, 199]
    x = noise
    for time in times:
        v_without = unet(x, time, encoder_hidden_states=uncond).sample
        v_with = unet(x, time, encoder_hidden_states=cond).sample
        v = v_without + 2.5 * (v_with - v_without)
        a = alphas[time]
        clean, eps = a.sqrt() * x - (1 - a).sqrt() * v, a.sqrt() * v + (1 - a).sqrt() * x
        b = alphas[time - 200] if time >= 200 else torch.tensor(1.0).double()
        x = b.sqrt() * clean + (1 - b).sqrt() * eps
    # The scheduler's noise levels are float32, so the two agree to its rounding.
    torch.testing.assert_close(got, x, atol=1e-5, rtol=1e-5)


def test_gradients_through_the_picture_are_finite_differences(
    double_gill: GILL, monkeypatch: pytest.MonkeyPatch
) -> None:
    # diffusers' pooling of the conditioning takes its softmax in float32, whatever the precision of the
    # model; a finite difference is then its rounding. With that cast off, all is float64.
    monkeypatch.setattr(Tensor, "float", lambda tensor: tensor)
    settings = double_gill.diffusion.settings()
    hidden = hidden_of(double_gill).requires_grad_()
    noise = double_gill.diffusion.noise([0], like=hidden)
    weights = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)).double()

    def value(at: Tensor, **options: object) -> Tensor:
        pixels = double_gill.drawers["image"].render(at, noise, settings, **options)  # type: ignore[arg-type]
        return (pixels * weights).sum()

    (gradient,) = torch.autograd.grad(value(hidden), hidden)
    (again,) = torch.autograd.grad(value(hidden, checkpoint=True), hidden)
    torch.testing.assert_close(again, gradient, atol=1e-9, rtol=1e-9)
    (last,) = torch.autograd.grad(value(hidden, grad_steps=1), hidden)
    assert not torch.allclose(last, gradient)
    direction = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(1)).double()
    eps = 1e-5
    with torch.no_grad():
        slope = (value(hidden + eps * direction) - value(hidden - eps * direction)) / (2 * eps)
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-6, atol=1e-9)
    assert slope.abs() > 1e-6


def test_rendering_hidden_states_repeats_the_generation(shared_gill: GILL) -> None:
    out = shared_gill.generate(prompt="a dog", draw=True, seed=11)
    assert out.hidden is not None
    assert out.latents is not None
    assert out.drawn is not None
    with torch.no_grad():
        noise = shared_gill.diffusion.noise([out.seed], like=out.hidden)
        latents = shared_gill.diffusion.sample(
            shared_gill.drawers["image"].conditioning(out.hidden[None]), noise, out.drawn
        )
    torch.testing.assert_close(latents[0], out.latents, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_latents_are_normalised_by_the_configs_statistics(shared_gill: GILL) -> None:
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    normalised = shared_gill.diffusion.encode(pixels)
    vae = shared_gill.diffusion.parts.get("vae", like=pixels)
    raw = vae.encode(pixels * 2 - 1).latents
    for channel, (mean, std) in enumerate([(-1.0, 0.5), (-0.9, 0.6), (0.2, 0.7), (0.4, 0.8)]):
        torch.testing.assert_close(normalised[:, channel] * std + mean, raw[:, channel])
    decoded = shared_gill.diffusion.decode(normalised)
    torch.testing.assert_close(decoded, vae.decode(raw).sample / 2 + 0.5)


@torch.no_grad()
def test_statistics_come_from_config_or_unet_or_autoencoder(gill_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(gill_folder, tmp_path / "copy"))
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    expected = read_gill(folder=folder).diffusion.decode(latents)
    dataclasses.replace(CONFIG, latent_mean=None, latent_std=None).save(folder)
    vae = read_gill(folder=folder).diffusion
    raw = vae.parts.get("vae", like=latents).decode(latents).sample / 2 + 0.5
    torch.testing.assert_close(vae.decode(latents), raw)
    statistics = {"latent_mean": CONFIG.latent_mean, "latent_std": CONFIG.latent_std}
    (folder / "unet" / "latent_statistics.json").write_text(json.dumps(statistics))
    torch.testing.assert_close(read_gill(folder=folder).diffusion.decode(latents), expected)
    assert not torch.allclose(raw, expected, atol=1e-3)


def test_samplers_by_name(gill_folder: Path) -> None:
    folder = gill_folder / "scheduler"
    assert type(read_scheduler(folder)).__name__ == "DPMSolverMultistepScheduler"
    ddim = read_scheduler(folder, name="ddim")
    assert type(ddim).__name__ == "DDIMScheduler"
    assert ddim.config["clip_sample"] is False
    assert ddim.config["prediction_type"] == "v_prediction"
    with pytest.raises(ConfigError, match=r"mllm.sampler='dimm' is unknown \(did you mean 'ddim'"):
        read_scheduler(folder, name="dimm")
