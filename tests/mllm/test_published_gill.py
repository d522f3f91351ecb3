"""GILL as published: every tensor of its checkpoint, the ids of its tokens, its parts, its pictures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import nam
from nam.app.attribute import main
from nam.errors import ConfigError, ModelError
from nam.mllm.diffusion import Diffusion
from nam.mllm.ffn import find_sites
from nam.mllm.gill import GILL
from nam.mllm.gill_published import published_config, read_checkpoint, read_published_gill
from nam.mllm.parts import LazyParts, read_tokenizer
from nam.mllm.prompts import PromptCodec
from nam.mllm.tiny_gill import write_opt_tokenizer
from nam.store import Run
from tests.families import picture
from tests.mllm.gill_parts import IDS, PUBLISHED_ARGS, folder, model, published_shapes
from tests.runs import run_command

__all__ = ["folder", "model"]


def test_full_size_has_the_published_tensors_and_sites(tmp_path: Path) -> None:
    from transformers import OPTConfig, OPTForCausalLM

    assert write_opt_tokenizer(tmp_path, ("a", "horse"), size=50265) == 50265
    config = published_config(PUBLISHED_ARGS)
    codec = PromptCodec(read_tokenizer(tmp_path), config)
    sizes: dict[str, Any] = {"hidden_size": 4096, "word_embed_proj_dim": 4096, "ffn_dim": 16384}
    with torch.device("meta"):
        language_model = OPTForCausalLM(
            OPTConfig(**sizes, vocab_size=50272, num_hidden_layers=32, num_attention_heads=32)
        )
        model = GILL(
            name="gill",
            config=config,
            language_model=language_model,
            codec=codec,
            vision=LazyParts({}),
            diffusion=Diffusion.from_folder(config, tmp_path),
        )
    assert list(codec.img_ids) == IDS
    assert codec.tokenizer.convert_tokens_to_ids("<|image|>") == 50265
    assert (codec.bos_id, codec.eos_id, codec.pad_id) == (2, 2, 1)
    assert tuple(model.unembedding.shape) == (50274, 4096)
    expected = published_shapes()
    assert len(expected) == 137
    assert sum(torch.Size(shape).numel() for shape in expected.values()) == 50_096_385
    assert {key: tuple(value.shape) for key, value in model.gill_state_dict().items()} == expected
    assert [tuple(site.value_vectors.shape) for site in find_sites(language_model)] == [(4096, 16384)] * 32


def test_every_tensor_of_the_checkpoint_arrives(folder: Path, model: GILL) -> None:
    saved = torch.load(folder / "pretrained_ckpt.pth.tar", weights_only=True)["state_dict"]
    names = {f"module.model.{name}" for name in published_shapes()}
    assert saved.keys() == names
    state = model.gill_state_dict()
    for name, value in saved.items():
        assert value.dtype == torch.float16
        assert torch.equal(state[name.removeprefix("module.model.")], value.float())
    rows = saved["module.model.input_embeddings.weight"].float()
    lm = model.language_model
    assert lm.get_input_embeddings().weight is lm.get_output_embeddings().weight
    assert torch.equal(model.unembedding[-8:], rows)
    words = torch.load(folder / "opt" / "pytorch_model.bin", weights_only=True)
    words = words["model.decoder.embed_tokens.weight"].float()
    assert torch.equal(model.unembedding[: len(words) - 6], words[:-6])
    assert not any(p.requires_grad for p in model.parameters())


def keep_all_but(name: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda state: {key: value for key, value in state.items() if key != name}


def add(name: str, shape: tuple[int, ...] = (2,)) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda state: {**state, name: torch.zeros(shape)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (keep_all_but("logit_scale"), r"lack logit_scale \(1 tensors\)"),
        (keep_all_but("visual_fc.bias"), "lack visual_fc.bias"),
        (keep_all_but("gen_text_hidden_fcs.0.query_embs"), "lack gen_text_hidden_fcs.0.query_embs"),
        (keep_all_but("input_embeddings.weight"), "lack input_embeddings.weight"),
        (add("model.lm.bias"), r"have unknown lm.bias \(1 tensors\)"),
        (add("module.model.visual_fc.bias"), "have visual_fc.bias twice"),
        (add("visual_fc.weight"), r"visual_fc.weight should be \(8, 16\) by the model's config, got \(2,\)"),
        (add("input_embeddings.weight", (9, 32)), r"should be \(8, 32\) .* got \(9, 32\)"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    model: GILL, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], message: str
) -> None:
    before = model.gill_state_dict()
    with pytest.raises(ModelError, match=message):
        model.load_gill_state(change(before))
    assert all(map(torch.equal, before.values(), model.gill_state_dict().values()))


def test_nothing_but_tensors_is_read(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "pretrained_ckpt.pth.tar"
    with pytest.raises(ModelError, match=r"there is no file .*pretrained_ckpt.pth.tar"):
        read_checkpoint(path)
    wrong = {
        "an object": {"state_dict": {"a": Path("a")}},
        "no tensors": {"state_dict": {"a": 1}},
        "a list": [1],
    }
    for content in wrong.values():
        torch.save(content, path)
        with pytest.raises(ModelError, match=r"pretrained_ckpt\.pth\.tar"):
            read_checkpoint(path)
    path.write_bytes((folder / path.name).read_bytes()[:3000])
    with pytest.raises(ModelError, match=r"cannot read .*pretrained_ckpt.pth.tar"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_emb_layers": [-1, 20]}, r"text_emb_layers must be \[-1\], got \[-1, 20\]"),
        ({"text_fc_mode": "linear"}, "text_fc_mode must be 'gill_mapper', got 'linear'"),
        ({"share_ret_gen": False}, "share_ret_gen must be True"),
        ({"num_clip_tokens": None}, "num_clip_tokens must be an integer of at least 1"),
        ({"gen_token_idx": [*range(5, 13)]}, r"gen_token_idx is \[5, 6, .* it is not the one that"),
        ({"opt_version": 3}, "opt_version should name a model"),
        ({"vision_dim": 17}, r"pretrained_ckpt.pth.tar: .*visual_embeddings.weight should be \(128, 17\)"),
    ],
)
def test_settings_that_do_not_fit_are_named(
    folder: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    for name in ("pretrained_ckpt.pth.tar", "model_args.json"):
        shutil.copy(folder / name, tmp_path)
    args = json.loads((folder / "model_args.json").read_text()) | changes
    (tmp_path / "model_args.json").write_text(json.dumps(args))
    with pytest.raises(ModelError, match=message):
        nam.load("gill", checkpoint=tmp_path)


def test_both_names_of_the_number_of_tokens_are_read() -> None:
    args = {key: value for key, value in PUBLISHED_ARGS.items() if key != "num_tokens"}
    assert published_config(args | {"num_gen_tokens": 8}) == published_config(PUBLISHED_ARGS)
    with pytest.raises(ModelError, match="has no num_gen_tokens"):
        published_config(args)


def test_devices_are_checked(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"mllm.device='gpu' cannot be used"):
        read_published_gill(checkpoint=folder, device="gpu")
    with pytest.raises(ConfigError, match=r"mllm.generator_device='gpu' cannot be used"):
        read_published_gill(checkpoint=folder, generator_device="gpu")


def test_a_picture_is_drawn_by_the_published_sampler(model: GILL) -> None:
    one, other = (model.generate(prompt, draw=True, max_new_tokens=1) for prompt in ("a dog", "the sea"))
    assert one.drawn is not None
    assert (one.drawn.sampler, one.drawn.steps, one.drawn.guidance) == ("PNDMScheduler", 2, 7.5)
    assert one.image is not None
    assert one.image.size == (64, 64)
    assert not np.array_equal(np.asarray(one.image), np.asarray(other.image))


def test_the_generator_goes_where_it_is_put(folder: Path) -> None:
    apart = read_published_gill(
        checkpoint=folder, generator=folder / "sd", dtype="float32", generator_device="meta"
    )
    unet = apart.diffusion.parts.get("unet", like=apart.unembedding)
    hidden = torch.randn(2, 8, 32, requires_grad=True)
    conditioning = apart.drawers["image"].conditioning(hidden)
    noise = apart.diffusion.noise([1, 2], like=hidden)
    empty = apart.diffusion.uncond(like=hidden)
    assert {one.device.type for one in (conditioning, noise, empty, *unet.parameters())} == {"meta"}
    pixels = apart.diffusion.decode(unet(noise, 5, encoder_hidden_states=conditioning).sample)
    assert (pixels.device.type, tuple(pixels.shape)) == ("meta", (2, 3, 64, 64))
    assert {p.device.type for p in apart.language_model.parameters()} == {"cpu"}


def test_the_generator_stays_when_the_model_is_moved(folder: Path) -> None:
    def moved(device: str | None) -> tuple[Tensor, Tensor]:
        model = read_published_gill(
            checkpoint=folder, generator=folder / "sd", dtype="float32", generator_device=device
        )
        unet = model.diffusion.parts.get("unet", like=model.unembedding)
        kept = unet.conv_in.weight.clone()
        model.to(device="meta", dtype=torch.float64)
        assert model.unembedding.device.type == "meta"
        assert unet.conv_in.weight.dtype == torch.float64
        return kept, unet.conv_in.weight

    before, after = moved("cpu")
    assert torch.equal(before.double(), after)
    assert moved(None)[1].device.type == "meta"


def test_the_autoencoder_s_old_names_are_read(folder: Path, tmp_path: Path, model: GILL) -> None:
    """The published file of Stable Diffusion 1.5 names its attention's linears as diffusers once did."""
    old = Path(shutil.copytree(folder / "sd", tmp_path / "sd"))
    path = old / "vae" / "diffusion_pytorch_model.safetensors"
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state, renamed = load_file(path), {}
    for key, value in state.items():
        new = next((key.replace(f".{a}.", f".{b}.") for a, b in names.items() if f".{a}." in key), key)
        renamed[new] = value
    assert len(renamed.keys() - state.keys()) == 16
    save_file(renamed, path, metadata={"format": "pt"})
    vae = Diffusion.from_folder(model.config, old).parts.get("vae", like=model.unembedding)
    same = model.diffusion.parts.get("vae", like=model.unembedding).state_dict()
    assert all(torch.equal(value, same[key]) for key, value in vae.state_dict().items())


def test_parts_come_from_the_hub_s_cache(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for name, part in (("facebook/opt-6.7b", "opt"), ("openai/clip", "clip"), ("sd/v1-5", "sd")):
        repository = tmp_path / f"models--{name.replace('/', '--')}"
        shutil.copytree(folder / part, repository / "snapshots" / ("0" * 40))
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("0" * 40)
    parts = {"language_model": "facebook/opt-6.7b", "vision": "openai/clip", "generator": "sd/v1-5"}
    model = nam.load("gill", checkpoint=folder, **parts, steps=1)
    out = model.generate(image=picture(0), draw=True, max_new_tokens=2)
    assert out.image is not None
    assert model.dtype == torch.bfloat16
    with pytest.raises(ModelError, match="no/such is no folder and was not fetched before"):
        nam.load("gill", checkpoint=folder, language_model="no/such")


def test_the_main_job_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NAM_RUN_STAMP", "now")
    none = [f"data.source.{name}=0" for name in ("draw_two", "draw_riddle", "riddle", "same")]
    few = ["data.source.concepts=[cat]", "data.source.draw=2", "data.source.caption=1", *none]
    settings = [
        "mllm.steps=1",
        "draw=true",
        "max_new_tokens=2",
        "segmenter=none",
        "trainer=cpu",
        "logger=none",
    ]
    arguments = ["mllm=gill/tiny_random", *settings, *few, "run_dir=out"]
    run_command(main, *arguments)
    run = Run(tmp_path / "out")
    assert run.finished
    drawn = run.samples["picture"].notna()
    assert drawn.sum() >= 2
    found = run.neurons[run.neurons["modality"] == "image"]
    assert found.groupby("sample").size().eq(2 * 64).sum() >= 2
    # The random model need not say the concept; nothing else goes wrong.
    errors = run.samples["error"].dropna()
    assert errors[errors != ""].str.contains("is not in the answer").all()
