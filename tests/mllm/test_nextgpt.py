"""NExT-GPT's prompts, what it sees, what it says and draws, and the whole job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from nam.app.attribute import main
from nam.mllm.imagebind import read_encoder
from nam.mllm.nextgpt import NextGPT
from nam.mllm.nextgpt_config import NextGPTCodec
from nam.mllm.parts import read_tokenizer
from nam.mllm.pictures import to_pixels
from nam.mllm.tiny_nextgpt import CONFIG
from nam.store import Run
from tests.families import picture
from tests.mllm.nextgpt_parts import State, fresh, model, parts, state
from tests.runs import run_command

__all__ = ["model", "parts", "state"]


def test_a_tokenizer_that_knows_the_signals_gives_the_same_ids(
    parts: dict[str, Any], tmp_path: Path, model: NextGPT
) -> None:
    published = read_tokenizer(parts["language_model"])
    published.add_tokens(list(CONFIG.new_tokens))  # as plain tokens, like the published code
    published.save_pretrained(tmp_path)
    codec = NextGPTCodec(read_tokenizer(tmp_path), CONFIG)
    assert (codec.img_ids, codec.banned_ids) == (model.codec.img_ids, model.codec.banned_ids)
    assert codec.decode([*codec.tokenizer("a dog")["input_ids"], *codec.img_ids]) == "a dog"


def test_prompts_are_laid_out_as_published(model: NextGPT) -> None:
    def tokens(ids: Any) -> list[str]:
        found: list[str] = model.tokenizer.convert_ids_to_tokens([max(one, 0) for one in ids])
        return found

    head, tail = ["<s>", "▁###", "▁Human", ":"], ["<0x0A>", "##", "#", "▁Assistant", ":"]
    plain = model.codec.encode("draw a  horse")
    assert tokens(plain.ids) == [*head, "▁draw", "▁a", "▁horse", *tail]
    assert (plain.prompt, plain.n_system, plain.n_picture) == ("draw a horse", 4, 0)
    seen = model.codec.encode("what is this?", pictures=1)
    shown = ["<Img>", "<unk>", "</Img>"]
    assert tokens(seen.ids) == [*head, *shown, "▁what", "▁is", "▁this", "?", *tail]
    assert (seen.ids[5], seen.n_system, seen.n_picture) == (-1, 5, 1)
    caption = model.codec.encode("", pictures=1)
    assert tokens(caption.ids) == [*head, *shown, "▁a", "▁picture", "▁of", *tail]
    two = model.codec.encode("a dog <|image|> and <|image|> what?", pictures=2)
    between = ["▁a", "▁dog", *shown, "▁and", *shown, "▁what", "?"]
    assert tokens(two.ids) == [*head, *between, *tail]
    assert (two.n_system, two.n_picture) == (7, 5)
    assert tokens(model.codec.end_ids) == ["</s>", "▁###", "##"]


def test_a_picture_is_read_as_one_token(parts: dict[str, Any], model: NextGPT) -> None:
    shown = picture(1, (40, 64))
    out = model.generate("what is this?", image=shown, draw=False, max_new_tokens=3)
    encoder = read_encoder(parts["vision"], CONFIG.vision_dim, torch.float32).eval()
    embed = model.language_model.get_input_embeddings()
    pixels = to_pixels(
        Image.fromarray(shown), size=32, mean=CONFIG.image_mean, std=CONFIG.image_std, fit="crop"
    )
    ids = torch.tensor(out.token_ids)
    with torch.no_grad():
        soft = F.linear(encoder(pixels[None]), model.visual_embeddings.weight, model.visual_embeddings.bias)
        embeds = embed(ids.clamp(min=0))
        embeds[out.spans.picture.start] = soft[0]
        logits = model.language_model(inputs_embeds=embeds[None]).logits[0]
    allowed = torch.ones(len(model.tokenizer), dtype=torch.bool)
    allowed[[*model.codec.banned_ids, *model.codec.img_ids[1:]]] = False
    for place in out.spans.answer:
        assert int(logits[place - 1].masked_fill(~allowed, -torch.inf).argmax()) == out.token_ids[place]
    other = model.generate("what is this?", image=picture(2), draw=False, max_new_tokens=3)
    assert not torch.equal(other.input_pixels, out.input_pixels)


def test_signals_of_videos_and_sounds_are_never_said(parts: dict[str, Any], state: State) -> None:
    other = fresh(parts)
    name = "llama_model.base_model.model.lm_head.weight"
    raised = state[name].clone()
    signals = other.tokenizer.convert_tokens_to_ids(["<Img>", "[VID0]", "[AUD0]", "[AUD7]", "[IMG1]"])
    raised[signals] = 20 * torch.randn(len(signals), 32, generator=torch.Generator().manual_seed(0)).half()
    other.load_published({**state, name: raised})
    out = other.eval().generate("draw a horse", draw=False, max_new_tokens=6)
    read = other.replay([out]).hidden[0, out.spans.answer.start - 1 : -1] @ other.unembedding.T
    assert set(read.argmax(-1).tolist()) <= set(signals)
    assert not set(out.answer_ids) & set(signals)


def test_the_next_turn_ends_an_answer(model: NextGPT, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = model.generate("what is this?", draw=False, max_new_tokens=5)
    assert whole.finish == "length"
    at = next(place for place, token in enumerate(whole.answer_ids) if token != whole.answer_ids[0])
    monkeypatch.setattr(model.codec, "end_ids", (2, whole.answer_ids[at]))
    ended = model.generate("what is this?", draw=False, max_new_tokens=5)
    assert (ended.finish, ended.answer_ids) == ("stop", whole.answer_ids[:at])


def test_a_picture_is_that_of_diffusers_own_pipeline(parts: dict[str, Any], model: NextGPT) -> None:
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel

    one, other = model.generate(["a dog", "the sea"], draw=True, max_new_tokens=2)
    folder = parts["generator"]
    pipeline: Any = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(folder / "vae", low_cpu_mem_usage=False).float(),
        text_encoder=CLIPTextModel.from_pretrained(folder / "text_encoder").float(),
        tokenizer=read_tokenizer(folder / "tokenizer"),
        unet=UNet2DConditionModel.from_pretrained(folder / "unet", low_cpu_mem_usage=False).float(),
        scheduler=PNDMScheduler.from_pretrained(folder / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    ids = torch.tensor(one.token_ids)[None]
    with torch.no_grad():
        hidden = model.language_model(ids, output_hidden_states=True).hidden_states[-1][:, -4:]
        mapper = model.mapper
        memory = mapper.fc(hidden + model.language_model.get_input_embeddings()(ids[:, -4:]))
        with pytest.warns(UserWarning, match="enable_nested_tensor"):
            reference = nn.Transformer(16, 2, 2, 2, 64, 0.0, batch_first=True, norm_first=True).eval()
        reference.load_state_dict(mapper.tfm.state_dict())
        embeds = mapper.model(reference(memory, mapper.query_embs))
        noise = model.diffusion.noise([one.seed], like=embeds)
        drawn = pipeline(
            prompt_embeds=embeds,
            negative_prompt_embeds=model.diffusion.uncond(like=embeds),
            latents=noise,
            num_inference_steps=2,
            guidance_scale=7.5,
            output_type="np",
        ).images[0]
    assert one.drawn is not None
    assert (one.drawn.sampler, one.drawn.steps, one.drawn.guidance) == ("PNDMScheduler", 2, 7.5)
    assert one.hidden is not None
    torch.testing.assert_close(one.hidden, hidden[0], atol=1e-4, rtol=1e-4)
    off = np.abs(np.asarray(one.image, dtype=float) - drawn * 255)
    assert off.max() < 1.5
    assert np.abs(np.asarray(one.image, dtype=float) - np.asarray(other.image, dtype=float)).max() > 3


def test_the_main_job_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NAM_RUN_STAMP", "now")
    none = [f"data.source.{name}=0" for name in ("draw_two", "draw_riddle", "riddle", "same")]
    few = ["data.source.concepts=[tree]", "data.source.draw=2", "data.source.caption=2", *none]
    settings = ["mllm.steps=1", "draw=true", "max_new_tokens=4", "segmenter=none", "trainer=cpu"]
    arguments = ["mllm=nextgpt/tiny_random", *settings, "logger=none", *few, "run_dir=out"]
    run_command(main, *arguments)
    run = Run(tmp_path / "out")
    assert run.finished
    assert run.samples["picture"].notna().sum() >= 2
    found = run.neurons.groupby("modality").size()
    assert found["image"] >= 2 * 2 * 48
    assert found["text"] >= 2 * 48
    errors = run.samples["error"].dropna()
    assert errors[errors != ""].str.contains("is not in the answer").all()
