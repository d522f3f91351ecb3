"""GILL as published: every tensor of its checkpoint, the ids of its tokens, its prompts, its pictures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import nam
from nam.app.attribute import main
from nam.errors import ConfigError, InputError, ModelError
from nam.mllm.diffusion import Diffusion
from nam.mllm.ffn import find_sites
from nam.mllm.gill import GILL
from nam.mllm.gill_published import published_config, read_checkpoint, read_published_gill
from nam.mllm.parts import LazyParts, read_tokenizer
from nam.mllm.pictures import to_pixels
from nam.mllm.prompts import PromptCodec
from nam.mllm.tiny_gill import write_opt_tokenizer, write_tiny_published
from nam.store import Run
from nam.types import Sample, Span
from tests.runs import run_command

IDS = list(range(50266, 50274))

#: `model_args.json` as published.
PUBLISHED_ARGS: dict[str, Any] = {
    "opt_version": "facebook/opt-6.7b",
    "freeze_lm": True,
    "visual_encoder": "openai/clip-vit-large-patch14",
    "freeze_vm": True,
    "n_visual_tokens": 4,
    "ret_emb_dim": 256,
    "gen_emb_dim": 768,
    "text_emb_layers": [-1],
    "text_fc_mode": "gill_mapper",
    "ret_text_fc_mode": "linear",
    "num_tokens": 8,
    "num_clip_tokens": 77,
    "share_ret_gen": True,
    "retrieval_token_idx": IDS,
    "gen_token_idx": IDS,
}


def published_shapes() -> dict[str, tuple[int, ...]]:
    """The 137 tensors of the published checkpoint, written down layer by layer."""
    shapes: dict[str, tuple[int, ...]] = {"logit_scale": (), "input_embeddings.weight": (8, 4096)}

    def pair(name: str, *shape: int) -> None:
        shapes[f"{name}.weight"] = shape
        shapes[f"{name}.bias"] = shape[:1]

    pair("visual_embeddings", 16384, 1024)
    pair("visual_fc", 256, 1024)
    pair("ret_text_hidden_fcs.0.model", 256, 4096)
    mapper = "gen_text_hidden_fcs.0"
    pair(f"{mapper}.fc", 512, 4096)
    pair(f"{mapper}.model", 768, 512)
    shapes[f"{mapper}.query_embs"] = (1, 77, 512)
    for half, attentions in (("encoder", ("self_attn",)), ("decoder", ("self_attn", "multihead_attn"))):
        pair(f"{mapper}.tfm.{half}.norm", 512)
        for layer in range(4):
            at = f"{mapper}.tfm.{half}.layers.{layer}"
            for attention in attentions:
                shapes[f"{at}.{attention}.in_proj_weight"] = (1536, 512)
                shapes[f"{at}.{attention}.in_proj_bias"] = (1536,)
                pair(f"{at}.{attention}.out_proj", 512, 512)
            pair(f"{at}.linear1", 2048, 512)
            pair(f"{at}.linear2", 512, 2048)
            for norm in range(1, len(attentions) + 2):
                pair(f"{at}.norm{norm}", 512)
    return shapes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_published(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="module")
def model(folder: Path) -> GILL:
    """No test may leave it changed."""
    return read_published_gill(checkpoint=folder, generator=folder / "sd", dtype="float32", steps=2)


def picture(seed: int, size: tuple[int, int] = (40, 64)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


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


def test_prompts_are_laid_out_as_published(model: GILL) -> None:
    def ids(words: str) -> list[int]:
        found: list[int] = model.tokenizer(words, add_special_tokens=False)["input_ids"]
        return found

    encode, seen = model.codec.encode, [-1] * 4
    caption = encode("", pictures=1)
    assert list(caption.ids) == [*seen, 2, *ids("A picture of")]
    assert (caption.prompt, caption.n_system, caption.n_picture) == ("A picture of", 0, 4)
    assert list(encode("draw a  horse").ids) == [2, *ids("draw a horse")]
    asked = encode("a dog <|image|> and a cat <|image|>\nwhat is this?\nA: ", pictures=2)
    expected = [2, *ids("a dog"), *seen, *ids("and a cat"), *seen, *ids("\nwhat is this?\nA:")]
    assert list(asked.ids) == expected
    assert asked.n_system == 1 + len(ids("a dog"))
    assert asked.n_picture == 8 + len(ids("and a cat"))
    first = encode("<|image|>what is this?", pictures=1)
    assert list(first.ids) == [*seen, 2, *ids("what is this?")]
    assert first.prompt == "what is this?"
    for prompt, pictures in (("a <|image|> b", 2), ("<|image|>", 0)):
        with pytest.raises(InputError, match=r"marks 1 pictures by .*image.*, "):
            encode(prompt, pictures=pictures)
    with pytest.raises(InputError, match="reserved tokens: </s>"):
        encode("a </s> dog")


def test_a_dialogue_with_pictures_is_read_in_its_order(model: GILL) -> None:
    shown = (picture(1), picture(2))
    words = ("a dog", "and a cat", "what is this?")
    (out,) = model.generate(["<|image|>".join(words)], image=[shown], draw=False, max_new_tokens=3)
    embed = model.language_model.get_input_embeddings()

    def read(text: str) -> Tensor:
        return embed(model.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"])[0]

    def see(one: np.ndarray) -> Tensor:
        kept = to_pixels(
            Image.fromarray(one),
            size=32,
            mean=model.config.image_mean,
            std=model.config.image_std,
            fit="crop",
        )
        return model.visual_tokens(kept[None])[0]

    with torch.no_grad():
        begin = embed(torch.tensor([2]))
        parts = [begin, read(words[0]), see(shown[0]), read(words[1]), see(shown[1]), read(words[2])]
        logits = model.language_model(inputs_embeds=torch.cat(parts)[None]).logits[0, -1]
        logits[[1, *model.codec.img_ids[1:]]] = -torch.inf
        replayed = model.replay([out]).hidden[0, out.spans.answer.start - 1] @ model.unembedding.T
    torch.testing.assert_close(replayed[2:-8], logits[2:-8], atol=1e-4, rtol=1e-4)
    assert out.answer_ids[0] == int(logits.argmax())
    assert out.input_pixels is not None
    assert out.input_pixels.shape == (2, 3, 32, 32)
    (swapped,) = model.generate(["<|image|>".join(words)], image=[shown[::-1]], draw=False, max_new_tokens=3)
    assert not torch.equal(swapped.input_pixels[0], out.input_pixels[0])
    beside = model.generate(
        ["<|image|>".join(words), "a dog", ""], image=[shown, None, shown[0]], draw=False, max_new_tokens=3
    )
    assert beside[0].token_ids == out.token_ids
    assert beside[2].spans.system == Span(0, 0)
    both = Sample(id="0", prompt="a dog", image=shown[0], pictures=shown)
    with pytest.raises(InputError, match="expected image or pictures, got both"):
        model.generate_batch([both])


def test_the_end_of_a_line_ends_an_answer(model: GILL, monkeypatch: pytest.MonkeyPatch) -> None:
    newline = model.tokenizer.get_vocab()["\u010a"]
    assert model.codec.end_ids == (2, newline)
    whole = model.generate("what is this?", draw=False, max_new_tokens=4)
    assert whole.answer_ids[1] != whole.answer_ids[0]
    monkeypatch.setattr(model.codec, "end_ids", (2, whole.answer_ids[1]))
    ended = model.generate("what is this?", draw=False, max_new_tokens=4)
    assert (ended.finish, ended.answer_ids) == ("stop", whole.answer_ids[:1])


@pytest.mark.parametrize("size", [(40, 64), (64, 40), (33, 33), (500, 30)])
def test_pictures_are_cut_as_clip_cuts_them(size: tuple[int, int]) -> None:
    from transformers import CLIPImageProcessorPil

    config = published_config(PUBLISHED_ARGS)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24})
    expected = processor(Image.fromarray(picture(0, size)), return_tensors="pt")["pixel_values"][0]
    ours = to_pixels(
        Image.fromarray(picture(0, size)), size=24, mean=config.image_mean, std=config.image_std, fit="crop"
    )
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


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
    conditioning = apart.conditioning(hidden)
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
