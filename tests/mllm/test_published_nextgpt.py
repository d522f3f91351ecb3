"""NExT-GPT as published: every tensor of its checkpoint, and the low-rank changes in the weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nam
from nam.errors import ConfigError, ModelError
from nam.mllm.diffusion import Diffusion
from nam.mllm.ffn import find_sites
from nam.mllm.nextgpt import NextGPT
from nam.mllm.nextgpt_config import NextGPTCodec, NextGPTConfig
from nam.mllm.nextgpt_published import read_checkpoint, read_published_nextgpt
from nam.mllm.nextgpt_state import published_shapes
from nam.mllm.parts import LazyParts, read_tokenizer
from nam.mllm.tiny_nextgpt import CONFIG, write_llama_tokenizer
from tests.families import picture
from tests.mllm.nextgpt_parts import State, fresh, model, parts, state

__all__ = ["model", "parts", "state"]


def shapes_of(
    *, hidden: int, vocabulary: int, layers: int, rank: int, vision: int, mapper: tuple[int, int], widths: Any
) -> dict[str, tuple[int, ...]]:
    """The tensors of the published checkpoint, written down module by module, by peft's newer names."""
    lm = "llama_model.base_model.model"
    shapes: dict[str, tuple[int, ...]] = {
        f"{lm}.model.embed_tokens.weight": (vocabulary, hidden),
        f"{lm}.lm_head.weight": (vocabulary, hidden),
    }
    for layer in range(layers):
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            at = f"{lm}.model.layers.{layer}.self_attn.{name}"
            shapes[f"{at}.lora_A.default.weight"] = (rank, hidden)
            shapes[f"{at}.lora_B.default.weight"] = (hidden, rank)

    def pair(name: str, *shape: int) -> None:
        shapes[f"{name}.weight"] = shape
        shapes[f"{name}.bias"] = shape[:1]

    pair("llama_proj", hidden, vision)
    width, depth = mapper
    for kind, (queries, out) in widths.items():
        at = f"gen_text_hidden_fcs{kind}.0"
        pair(f"{at}.fc", width, hidden)
        pair(f"{at}.model", out, width)
        shapes[f"{at}.query_embs"] = (1, queries, width)
        for half, attentions in (("encoder", ("self_attn",)), ("decoder", ("self_attn", "multihead_attn"))):
            pair(f"{at}.tfm.{half}.norm", width)
            for layer in range(depth):
                block = f"{at}.tfm.{half}.layers.{layer}"
                for attention in attentions:
                    shapes[f"{block}.{attention}.in_proj_weight"] = (3 * width, width)
                    shapes[f"{block}.{attention}.in_proj_bias"] = (3 * width,)
                    pair(f"{block}.{attention}.out_proj", width, width)
                pair(f"{block}.linear1", 4 * width, width)
                pair(f"{block}.linear2", width, 4 * width)
                for norm in range(1, len(attentions) + 2):
                    pair(f"{block}.norm{norm}", width)
    return shapes


def test_full_size_has_the_published_tensors_and_sites(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    assert write_llama_tokenizer(tmp_path, ("a", "horse"), size=32001) == 32001
    config = NextGPTConfig()
    codec = NextGPTCodec(read_tokenizer(tmp_path), config)
    with torch.device("meta"):
        language_model = LlamaForCausalLM(LlamaConfig(vocab_size=32001, intermediate_size=11008))
        model = NextGPT(
            name="nextgpt",
            config=config,
            language_model=language_model,
            codec=codec,
            vision=LazyParts({}),
            diffusion=Diffusion.from_folder(config, tmp_path),
        )
    assert codec.img_ids == (32003, 32004, 32005, 32006)
    ends: Any = codec.tokenizer.convert_tokens_to_ids(["[VID0]", "[VID23]", "[AUD0]", "[AUD7]"])
    assert ends == [32007, 32030, 32031, 32038]
    assert tuple(model.unembedding.shape) == (32039, 4096)
    expected = shapes_of(
        hidden=4096,
        vocabulary=32039,
        layers=32,
        rank=32,
        vision=1024,
        mapper=(512, 4),
        widths={"": (77, 768), "_video": (77, 1024), "_audio": (1, 512)},
    )
    assert len(expected) == 647
    short = {name.replace(".default.", "."): shape for name, shape in expected.items()}
    assert {name: tuple(shape) for name, shape in published_shapes(model).items()} == short
    assert [tuple(site.value_vectors.shape) for site in find_sites(language_model)] == [(4096, 11008)] * 32


def test_every_tensor_of_the_checkpoint_arrives(state: State, model: NextGPT) -> None:
    widths = {"": (77, 16), "_video": (77, 24), "_audio": (1, 8)}
    vocabulary = len(model.tokenizer)
    expected = shapes_of(
        hidden=32, vocabulary=vocabulary, layers=2, rank=2, vision=16, mapper=(16, 2), widths=widths
    )
    assert {name: tuple(value.shape) for name, value in state.items()} == expected
    lm = model.language_model
    own = {
        "llama_model.base_model.model.model.embed_tokens.weight": lm.get_input_embeddings().weight,
        "llama_model.base_model.model.lm_head.weight": lm.get_output_embeddings().weight,
    }
    modules = {
        "llama_proj.": model.visual_embeddings,
        "gen_text_hidden_fcs.0.": model.mapper,
        "gen_text_hidden_fcs_video.0.": model.video_mapper,
        "gen_text_hidden_fcs_audio.0.": model.audio_mapper,
    }
    for prefix, module in modules.items():
        own |= {prefix + key: value for key, value in module.state_dict().items()}
    assert own.keys() == {name for name in state if "lora" not in name}
    for name, value in own.items():
        assert state[name].dtype == torch.float16
        assert torch.equal(value, state[name].float())
    assert not any(p.requires_grad for p in model.parameters())


def test_low_rank_changes_act_as_if_they_stood_beside_the_weights(
    parts: dict[str, Any], state: State, model: NextGPT
) -> None:
    from transformers import LlamaForCausalLM

    plain = LlamaForCausalLM.from_pretrained(parts["language_model"])
    plain.resize_token_embeddings(len(model.tokenizer))
    plain = plain.double().eval()
    lm = "llama_model.base_model.model"
    with torch.no_grad():
        plain.model.embed_tokens.weight.copy_(state[f"{lm}.model.embed_tokens.weight"])
        plain.lm_head.weight.copy_(state[f"{lm}.lm_head.weight"])

    def beside(at: str) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        first, second = (state[f"{lm}.{at}.lora_{one}.default.weight"].double() for one in "AB")
        return lambda module, given, out: out + 3.0 / 2 * (given[0] @ first.T @ second.T)

    ids = torch.tensor([[1, 300, 400, 500, 600]])
    with torch.no_grad():
        without = plain(ids).logits
        for layer, block in enumerate(plain.model.layers):
            for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
                hook = beside(f"model.layers.{layer}.self_attn.{name}")
                getattr(block.self_attn, name).register_forward_hook(hook)
        expected = plain(ids).logits
        merged = model.language_model(ids).logits.double()
    torch.testing.assert_close(merged, expected, atol=1e-4, rtol=1e-4)
    assert float((expected - without).abs().max()) > 0.1


def test_checkpoints_under_other_names_load_alike(
    parts: dict[str, Any], state: State, model: NextGPT
) -> None:
    old = {f"module.{name}".replace(".default.", "."): value for name, value in state.items()}
    lm = "llama_model.base_model.model."
    plain = {name.replace(lm, "llama_model."): value for name, value in state.items()}
    plain["input_embeddings.weight"] = state[f"{lm}model.embed_tokens.weight"]
    for given in (old, plain):
        other = fresh(parts)
        other.load_published(given)
        kept = dict(other.named_parameters())
        assert all(torch.equal(kept[name], value) for name, value in model.named_parameters() if name in kept)
    assert plain.keys() - state.keys()


def keep_all_but(part: str) -> Callable[[State], State]:
    return lambda state: {key: value for key, value in state.items() if part not in key}


def add(name: str, *shape: int) -> Callable[[State], State]:
    return lambda state: {**state, name: torch.zeros(shape)}


ADAPTED = "llama_model.base_model.model.model.layers.1.self_attn.k_proj"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (keep_all_but("llama_proj.bias"), r"lack llama_proj.bias \(1 tensors\)"),
        (keep_all_but("lora"), r"lack llama_model.*lora_A.weight.* \(16 tensors\)"),
        (keep_all_but("layers.1.self_attn.k_proj.lora_B"), r"lack .*layers.1.self_attn.k_proj.lora_B.weight"),
        (keep_all_but("_audio.0.query_embs"), "lack gen_text_hidden_fcs_audio.0.query_embs"),
        (keep_all_but("lm_head"), "lack llama_model.base_model.model.lm_head.weight"),
        (add("visual_encoder.head"), r"have unknown visual_encoder.head \(1 tensors\)"),
        (add(f"{ADAPTED}.lora_A.weight", 2, 32), "k_proj.lora_A.weight twice, with two values"),
        (
            add(f"{ADAPTED}.lora_A.default.weight", 4, 32),
            r"lora_A.weight should be \(2, 32\) .* \(4, 32",
        ),
        (
            lambda state: {**state, "llama_proj.bias": torch.full((32,), torch.nan)},
            "llama_proj.bias holds NaN",
        ),
        (add("llama_proj.weight", 32, 17), r"llama_proj.weight should be \(32, 16\) .* got \(32, 17\)"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    parts: dict[str, Any], state: State, change: Callable[[State], State], message: str
) -> None:
    other = fresh(parts)
    before = [value.clone() for value in other.parameters()]
    with pytest.raises(ModelError, match=message):
        other.load_published(change(state))
    assert all(map(torch.equal, before, other.parameters()))


def test_nothing_but_tensors_is_read(parts: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.pt"
    with pytest.raises(ModelError, match=r"there is no file .*pytorch_model.pt"):
        read_checkpoint(path)
    for content in ({"a": Path("a")}, {"a": 1}, [torch.ones(1)]):
        torch.save(content, path)
        with pytest.raises(ModelError, match=r"pytorch_model\.pt"):
            read_checkpoint(path)
    path.write_bytes((parts["checkpoint"] / path.name).read_bytes()[:3000])
    with pytest.raises(ModelError, match=r"cannot read .*pytorch_model.pt"):
        read_checkpoint(path)


def test_another_tokenizer_is_refused(parts: dict[str, Any], tmp_path: Path, model: NextGPT) -> None:
    known = len(model.tokenizer)
    write_llama_tokenizer(tmp_path, ("horse",))
    with pytest.raises(ModelError, match=rf"knows {known} tokens, the tokenizer makes .* set mllm.tokenizer"):
        read_published_nextgpt(**parts, tokenizer=tmp_path, config=CONFIG)
    shutil.copytree(parts["language_model"], tmp_path / "tied")
    settings = (tmp_path / "tied" / "config.json").read_text()
    settings = settings.replace('"tie_word_embeddings": false', '"tie_word_embeddings": true')
    (tmp_path / "tied" / "config.json").write_text(settings)
    with pytest.raises(ModelError, match="its language model ties the two"):
        read_published_nextgpt(**{**parts, "language_model": tmp_path / "tied"}, config=CONFIG)


def test_settings_that_cannot_be_are_refused(parts: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"mllm.device='gpu' cannot be used"):
        read_published_nextgpt(**parts, device="gpu")
    with pytest.raises(ModelError, match="lora_rank of a NExT-GPT must be at least 1, got 0"):
        NextGPTConfig(lora_rank=0)


def test_it_is_loaded_by_its_name(parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nam.mllm.nextgpt_published.NextGPTConfig", lambda: CONFIG)
    model = nam.load("nextgpt", **parts, steps=1)
    assert model.dtype == torch.bfloat16
    assert model.generate(image=picture(0), draw=True, max_new_tokens=2).image is not None
