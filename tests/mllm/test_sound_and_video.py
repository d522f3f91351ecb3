"""Sounds and videos: against diffusers' own pipelines, their relevance, and in mixed batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from nam.errors import ConfigError, InputError, ModelError
from nam.hooks import Recorder
from nam.mllm.nextgpt import NextGPT
from nam.mllm.nextgpt_published import read_checkpoint
from nam.mllm.parts import read_tokenizer
from nam.mllm.tiny_nextgpt import CONFIG
from nam.reduction.base import contexts_of
from nam.reduction.nam import Nam
from nam.regions import time_region
from nam.relevance.attention import AttentionRelevance
from nam.relevance.gradient import GradientRelevance
from nam.relevance.levels import LevelsRelevance
from nam.targets import image_target
from nam.types import Medium
from tests.mllm.nextgpt_parts import model, parts, read

__all__ = ["model", "parts"]


PROMPTS = ["draw a red horse", "what is this?", "a cat at night", "the sea"]


def test_a_sound_is_that_of_diffusers_own_pipeline(parts: dict[str, Any], model: NextGPT) -> None:
    from diffusers import AudioLDMPipeline, AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import ClapTextModelWithProjection, SpeechT5HifiGan

    one, other = model.generate(PROMPTS[:2], draw="audio", max_new_tokens=2, seed=[3, 4])
    folder = parts["audio_generator"]
    pipeline: Any = AudioLDMPipeline(
        vae=AutoencoderKL.from_pretrained(folder / "vae", low_cpu_mem_usage=False).float(),
        text_encoder=ClapTextModelWithProjection.from_pretrained(folder / "text_encoder").float(),
        tokenizer=read_tokenizer(folder / "tokenizer"),
        unet=UNet2DConditionModel.from_pretrained(folder / "unet", low_cpu_mem_usage=False).float(),
        scheduler=DDIMScheduler.from_pretrained(folder / "scheduler"),
        vocoder=SpeechT5HifiGan.from_pretrained(folder / "vocoder").float(),
    )
    pipeline.set_progress_bar_config(disable=True)
    assert one.hidden is not None
    drawer = model.drawers["audio"]
    with torch.no_grad():
        embeds = drawer.conditioning(one.hidden[None])
        heard = pipeline(
            prompt_embeds=embeds[:, 0],
            latents=drawer.diffusion.noise([3], like=embeds),
            audio_length_in_s=CONFIG.audio_seconds,
            num_inference_steps=2,
            guidance_scale=7.5,
        ).audios[0]
    assert one.sound is not None
    assert other.sound is not None
    assert (one.medium, one.sound.rate, heard.shape) == ("audio", 1600, (400,))
    assert one.hidden.shape == (8, 32)
    np.testing.assert_allclose(one.sound.waveform.numpy(), heard, atol=1e-4 * np.abs(heard).max())
    assert np.abs(heard).max() > 1e-4
    assert not torch.allclose(one.sound.waveform, other.sound.waveform, rtol=1e-2)
    assert one.image is not None
    assert one.image.size == (40, 16)


def test_a_video_is_that_of_diffusers_own_pipeline(parts: dict[str, Any], model: NextGPT) -> None:
    from diffusers import AutoencoderKL, PNDMScheduler, TextToVideoSDPipeline, UNet3DConditionModel
    from transformers import CLIPTextModel

    one, other = model.generate(PROMPTS[:2], draw="video", max_new_tokens=2, seed=[3, 4])
    folder = parts["video_generator"]
    pipeline: Any = TextToVideoSDPipeline(
        vae=AutoencoderKL.from_pretrained(folder / "vae", low_cpu_mem_usage=False).float(),
        text_encoder=CLIPTextModel.from_pretrained(folder / "text_encoder").float(),
        tokenizer=read_tokenizer(folder / "tokenizer"),
        unet=UNet3DConditionModel.from_pretrained(folder / "unet", low_cpu_mem_usage=False).float(),
        scheduler=PNDMScheduler.from_pretrained(folder / "scheduler"),
    )
    pipeline.set_progress_bar_config(disable=True)
    assert one.hidden is not None
    drawer = model.drawers["video"]
    with torch.no_grad():
        embeds = drawer.conditioning(one.hidden[None])
        drawn = pipeline(
            prompt_embeds=embeds,
            negative_prompt_embeds=drawer.diffusion.uncond(like=embeds),
            latents=drawer.diffusion.noise([3], like=embeds),
            height=32,
            width=48,
            num_frames=3,
            num_inference_steps=2,
            guidance_scale=7.5,
            output_type="np",
        ).frames[0]
    assert (one.medium, len(one.frames), one.hidden.shape) == ("video", 3, (24, 32))
    ours = np.stack([np.asarray(frame, dtype=float) for frame in one.frames])
    assert ours.shape == (3, 32, 48, 3)
    assert np.abs(ours - drawn * 255).max() < 1.5
    theirs = np.stack([np.asarray(frame, dtype=float) for frame in other.frames])
    assert np.abs(ours - theirs).max() > 3
    sheet = np.asarray(one.image)
    assert sheet.shape == (64, 96, 3)
    assert np.array_equal(sheet[32:, :48], np.asarray(one.frames[2]))
    assert not sheet[32:, 48:].any()


@pytest.mark.parametrize("medium", ["audio", "video"])
def test_relevance_is_the_slope_of_the_region(parts: dict[str, Any], medium: Medium) -> None:
    exact = read(parts, dtype="float64", steps=2)
    out = exact.generate("a dog", draw=medium, max_new_tokens=2)
    mask = torch.from_numpy(time_region(out, 0.0, 0.4))
    found = GradientRelevance(signed=True)(exact, out, mask).values.double()
    drawer = exact.drawers[out.medium]
    assert out.hidden is not None
    assert out.drawn is not None
    noise = drawer.diffusion.noise([out.seed], like=exact.unembedding)
    along = torch.randn(out.hidden.shape, generator=torch.Generator().manual_seed(0)).double()

    def measured(step: float) -> float:
        with torch.no_grad():
            pixels = drawer.render((out.hidden.double() + step * along)[None], noise, out.drawn)
        return float((pixels * mask).sum())

    expected = (measured(1e-5) - measured(-1e-5)) / 2e-5
    assert float((found * along).sum()) == pytest.approx(expected, rel=1e-5)
    late = torch.from_numpy(time_region(out, 0.4, 1.0))
    whole = GradientRelevance(signed=True)(exact, out, mask | late).values.double()
    rest = GradientRelevance(signed=True)(exact, out, late & ~mask).values.double()
    torch.testing.assert_close(found + rest, whole, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(found, whole, rtol=0.05)
    cheap = LevelsRelevance(signed=True)(exact, out, mask).values.double()
    assert float(torch.stack([cheap.flatten(), found.flatten()]).corrcoef()[0, 1]) > 0.7
    with pytest.raises(ConfigError, match=f"regions of pictures alone, not of {medium}"):
        AttentionRelevance()(exact, out, mask)


@pytest.mark.parametrize("medium", ["audio", "video"])
def test_half_precision_draws_nearly_the_same(parts: dict[str, Any], model: NextGPT, medium: Medium) -> None:
    half = read(parts, dtype="bfloat16")
    one, other = (each.generate("a dog", draw=medium, max_new_tokens=1) for each in (model, half))
    assert one.token_ids == other.token_ids
    both = [np.asarray(each.image, dtype=float).ravel() for each in (one, other)]
    assert np.corrcoef(both)[0, 1] > 0.9
    if other.sound is not None:
        assert other.sound.waveform.dtype == torch.float32
        assert bool(other.sound.waveform.isfinite().all())


@pytest.mark.parametrize("medium", ["audio", "video"])
def test_generators_go_where_they_are_put(parts: dict[str, Any], medium: Medium) -> None:
    apart = read(parts, generator_device="meta")
    drawer = apart.drawers[medium]
    hidden = torch.randn(2, len(apart.codec.signals[medium]), 32)
    noise = drawer.diffusion.noise([1, 2], like=hidden)
    conditioning = drawer.conditioning(hidden)
    predicted = drawer.diffusion.network(like=noise)(noise, 5, encoder_hidden_states=conditioning).sample
    pixels = drawer.diffusion.decode(predicted)
    assert {one.device.type for one in (noise, conditioning, pixels)} == {"meta"}
    assert tuple(pixels.shape) == {"audio": (2, 1, 16, 40), "video": (2, 3, 64, 96)}[medium]
    assert {p.device.type for p in drawer.diffusion.parameters()} == {"meta"}
    assert {p.device.type for p in drawer.mapper.parameters()} == {"cpu"}


@pytest.fixture(scope="module")
def mixed(parts: dict[str, Any], model: NextGPT) -> NextGPT:
    """A model whose first word of the first three prompts is the first signal token of a medium each."""
    state = read_checkpoint(parts["checkpoint"] / "pytorch_model.pt")
    said = model.generate(PROMPTS[:3], draw=False, max_new_tokens=1)
    table = state["llama_model.base_model.model.lm_head.weight"]
    for generation, medium in zip(said, ("video", "audio", "image"), strict=True):
        hidden = model.replay([generation]).hidden[0, generation.spans.answer.start - 1].detach()
        table[model.codec.signals[medium][0]] = 8 * hidden / hidden.norm()  # type: ignore[index]
    other = read(parts, steps=1)
    with torch.no_grad():
        other.language_model.get_output_embeddings().weight.copy_(table)
    return other


def test_a_mixed_batch_is_answered_as_each_prompt_alone(mixed: NextGPT) -> None:
    recorder = Recorder(mixed)
    together = mixed.generate(PROMPTS, max_new_tokens=3, record=recorder)
    assert [out.medium for out in together[:3]] == ["video", "audio", "image"]
    assert [bool(out.frames) for out in together[:3]] == [True, False, False]
    assert [out.sound is not None for out in together[:3]] == [False, True, False]
    for row, prompt in enumerate(PROMPTS):
        alone = mixed.generate(prompt, max_new_tokens=3)
        assert (alone.token_ids, alone.spans, alone.finish) == (
            together[row].token_ids,
            together[row].spans,
            together[row].finish,
        )
        if alone.hidden is not None and together[row].hidden is not None:
            torch.testing.assert_close(together[row].hidden, alone.hidden, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(together[row].latents, alone.latents, atol=1e-2, rtol=1e-2)
    with torch.no_grad():
        again = mixed.replay(together)
    for row, out in enumerate(together[:3]):
        positions = range(again.offsets[row] + out.spans.img.start, again.offsets[row] + out.spans.img.stop)
        torch.testing.assert_close(again.hidden[row, positions], out.hidden, atol=1e-4, rtol=1e-4)
        relevance = GradientRelevance()(mixed, out, torch.ones(out.image.size[::-1], dtype=torch.bool))
        target = image_target(out, relevance)
        assert target.modality == out.medium
        recorded, replayed = (
            Nam().score(contexts_of(mixed, [out], [target], recorded=given)[0])
            for given in ([recorder.recorded[row]], None)
        )
        torch.testing.assert_close(recorded, replayed, atol=1e-4, rtol=1e-4)


def test_what_cannot_be_drawn_is_refused(parts: dict[str, Any], model: NextGPT) -> None:
    silent = read({**parts, "audio_generator": None, "video_generator": None})
    with pytest.raises(InputError, match="nextgpt does not draw audio: it draws image"):
        silent.generate("a dog", draw="audio")
    out = model.generate("a dog", draw="audio", max_new_tokens=2)
    with pytest.raises(ModelError, match="needs a model that draws audio by diffusion, nextgpt does not"):
        GradientRelevance()(silent, out, torch.from_numpy(time_region(out)))
