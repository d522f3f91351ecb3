"""Models of transformers: they read and say what transformers itself would, and refuse the rest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import nam
from nam.app.attribute import main
from nam.errors import ConfigError, InputError, ModelError
from nam.hooks import Recorder
from nam.mllm.ffn import FfnSite, find_sites
from nam.mllm.norm import read_final_norm
from nam.mllm.probe import probe_sites
from nam.mllm.tiny_vlm import FAMILIES, read_tiny_vlm, write_tiny_vlm
from nam.mllm.vlm import VLM
from nam.mllm.vlm_folder import read_vlm
from nam.mllm.words import WordBook
from nam.store import Run
from nam.types import PICTURE_ID, Neuron
from tests.runs import run_command

DENSE = sorted(name for name, family in FAMILIES.items() if family.dense)
SEEING = [name for name in DENSE if FAMILIES[name].picture]
WORDS = "what is this?"


@cache
def tiny(family: str) -> VLM:
    return read_tiny_vlm(family=family)


@pytest.fixture(scope="module", autouse=True)
def clear() -> Iterator[None]:
    yield
    tiny.cache_clear()


def picture(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("family", SEEING)
def test_a_picture_is_read_as_by_transformers(family: str) -> None:
    model = tiny(family)
    content: list[dict[str, Any]] = [
        {"type": "image", "image": picture(70, 40)},
        {"type": "text", "text": WORDS},
    ]
    theirs = model.chat.processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    out = model.generate(WORDS, image=picture(70, 40), max_new_tokens=6)
    ids = theirs["input_ids"][0].tolist()
    prompt = out.token_ids[: out.spans.answer.start]
    image = model.chat.picture_id
    assert [image if token == PICTURE_ID else token for token in prompt] == ids
    assert torch.equal(theirs["pixel_values"], out.input_pixels)
    assert all(torch.equal(theirs[key], value) for key, value in out.input_extras.items())
    said = model.language_model.generate(**theirs, max_new_tokens=6, do_sample=False)[0, len(ids) :]
    banned = {model.chat.pad_id, *model.chat.placeholder_ids}
    if not banned & set(said.tolist()):
        assert tuple(said.tolist()) == (*out.answer_ids, *(model.eos_ids if out.finish == "stop" else ()))


@pytest.mark.parametrize("family", SEEING)
def test_the_picture_matters(family: str) -> None:
    model = tiny(family)
    pair = [model.generate(WORDS, image=picture(*size), max_new_tokens=2) for size in ((64, 64), (65, 64))]
    streams = []
    for generation in pair:
        recorder = Recorder(model)
        model.replay([generation], record=recorder)
        streams.append(recorder.recorded[0].stream)
    assert not torch.allclose(streams[0][0], streams[1][0], atol=1e-3)  # type: ignore[index]


def test_rows_that_end_at_different_times_are_recorded_as_alone() -> None:
    model = read_tiny_vlm(family="qwen3_vl")
    with torch.no_grad():
        model.language_model.get_output_embeddings().weight[list(model.eos_ids)] *= 5
    prompts = ["a cat", "a dog at night", WORDS, "draw a red horse", "a blue fish by the sea", "a star"]
    images = [picture(40, 40), None, picture(80, 30), None, None, picture(30, 60)]
    recorder = Recorder(model)
    batch = model.generate(prompt=prompts, image=images, max_new_tokens=12, record=recorder)
    assert {one.finish for one in batch} == {"stop", "length"}
    assert len({len(one.answer_ids) for one in batch}) > 2
    for row, (prompt, image) in enumerate(zip(prompts, images, strict=True)):
        single = Recorder(model)
        alone = model.generate(prompt, image=image, max_new_tokens=12, record=single)
        assert (alone.token_ids, alone.finish) == (batch[row].token_ids, batch[row].finish)
        one, other = recorder.recorded[row], single.recorded[0]
        assert one.positions == other.positions
        torch.testing.assert_close(one.activations, other.activations, atol=1e-3, rtol=1e-4)


def test_a_longer_answer_than_the_context_holds_is_cut() -> None:
    model = read_tiny_vlm(family="llama")
    asked = len(model.chat.encode(WORDS, None).ids)
    model.context = asked + 3
    assert len(model.generate(WORDS, max_new_tokens=9).answer_ids) == 3
    model.context = asked
    with pytest.raises(
        InputError, match=rf"the prompt has {asked} tokens \(0 of them .* at most {asked - 1}"
    ):
        model.generate(WORDS)


def test_what_cannot_be_asked_is_refused() -> None:
    llama, llava = tiny("llama"), tiny("llava")
    with pytest.raises(InputError, match="reads no pictures"):
        llama.generate(WORDS, image=picture(9, 9))
    with pytest.raises(InputError, match="the prompt is empty"):
        llava.generate("  ")
    with pytest.raises(InputError, match="reserved tokens: <image>"):
        llava.generate("a cat <image>", image=picture(9, 9))
    with pytest.raises(InputError, match="does not know: zebra, xylophone"):
        llava.generate("a zebra and a xylophone")
    with pytest.raises(InputError, match="sample 1: the prompt is empty"):
        llava.generate(["a cat", ""])
    with pytest.raises(InputError, match="answers in words alone; set draw=auto"):
        llava.generate("a cat", draw=True)
    assert llava.generate(image=picture(9, 9), max_new_tokens=1).prompt == "a picture of"


def test_settings_of_the_hub_do_not_change_the_answer(tmp_path: Path) -> None:
    folder = write_tiny_vlm(tmp_path / "m", family="llama")
    plain = read_vlm(id=folder, dtype="float32").generate(WORDS, max_new_tokens=8)
    path = folder / "generation_config.json"
    settings = {"repetition_penalty": 5.0, "do_sample": True, "no_repeat_ngram_size": 1, "min_new_tokens": 8}
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    assert read_vlm(id=folder, dtype="float32").generate(WORDS, max_new_tokens=8).token_ids == plain.token_ids


def test_a_folder_loads_by_its_path_and_a_broken_one_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_vlm(tmp_path / "tiny", family="llava")
    model = nam.load(folder, dtype="float32")
    assert isinstance(model, VLM)
    assert (model.name, model.draws, model.dtype) == ("tiny", False, torch.float32)
    assert (
        model.generate(WORDS, max_new_tokens=4).text == tiny("llava").generate(WORDS, max_new_tokens=4).text
    )
    broken = Path(shutil.copytree(folder, tmp_path / "broken"))
    (broken / "preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match=r"the processor of .*broken cannot be made .*mllm.id"):
        read_vlm(id=broken)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"holds no \.safetensors"):
        read_vlm(id=folder)
    with pytest.raises(ConfigError, match=r"mllm.dtype='float23' is unknown"):
        read_vlm(id=broken, dtype="float23")


def test_what_is_not_supported_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        ModelError, match=r"FFN of MixtralDecoderLayer is a mixture of experts \(mlp.experts\)"
    ):
        read_tiny_vlm(family="mixtral")
    with pytest.raises(ConfigError, match=r"mllm.family='llva' is unknown .*'llava'"):
        read_tiny_vlm(family="llva")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(ModelError, match="a clip model is neither an image-text-to-text nor a causal one"):
        read_vlm(id=tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "florence2"}))
    with pytest.raises(ModelError, match="encoder-decoder models such as florence2"):
        read_vlm(id=tmp_path)
    with pytest.raises(ModelError, match=r"mllm\.id: no/such_model is no folder and was not fetched before"):
        read_vlm(id="no/such_model")


@pytest.mark.parametrize("family", ["llama", "gemma3", "granite"])
def test_a_site_that_says_something_else_is_refused(family: str) -> None:
    model = tiny(family)
    sites = list(model.ffn_sites)
    probe_sites(model.language_model, sites)
    one = sites[1]
    wrong = {
        "factor": FfnSite(1, one.name, one.linear, one.between, one.factor * 1.1),
        "norm": FfnSite(1, one.name, one.linear, nn.Identity() if one.between else nn.LayerNorm(32), 1.0),
    }
    for site in wrong.values():
        with pytest.raises(ModelError, match=rf"what {one.name} writes does not arrive .* 0 other layers"):
            probe_sites(model.language_model, [sites[0], site, sites[2]])


def test_a_norm_or_a_factor_behind_the_ffn_is_known() -> None:
    gemma, granite = tiny("gemma3"), tiny("granite")
    layers = gemma.language_model.get_decoder().layers
    assert [site.between for site in gemma.ffn_sites] == [one.post_feedforward_layernorm for one in layers]
    assert {site.factor for site in granite.ffn_sites} == {0.4}
    assert all(site.straight for site in tiny("llava").ffn_sites)
    for model in (gemma, granite):
        with pytest.raises(ModelError, match="stands between FFN and residual stream"):
            read_final_norm(model)
    special = {id_ for id_, token in gemma.tokenizer.added_tokens_decoder.items() if token.special}
    neurons, expected = [Neuron(1, 2), Neuron(0, 5), Neuron(1, 7)], []
    for neuron in neurons:
        site = gemma.ffn_sites[neuron.layer]
        value = site.value_vectors[:, neuron.unit]
        arriving = (1 + site.between.weight) * value  # type: ignore[union-attr, operator]
        logits = gemma.unembedding @ arriving
        best = next(id_ for id_ in logits.argsort(descending=True).tolist() if id_ not in special)
        expected.append((gemma.tokenizer.decode([best]).strip(),))
    assert WordBook(gemma, count=1)(neurons) == expected


def test_every_site_of_a_7b_model_is_found_without_its_weights() -> None:
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    with torch.device("meta"):
        model = LlavaForConditionalGeneration(LlavaConfig(text_config={"model_type": "llama"}))
    sites = find_sites(model)
    assert [tuple(site.value_vectors.shape) for site in sites] == [(4096, 11008)] * 32
    assert sites[31].name == "model.language_model.layers.31.mlp.down_proj"


def test_the_main_job_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NAM_RUN_STAMP", "now")
    only = ["data.source.concepts=[cat,horse]", "reduction=[nam,gradxact]", "trainer=cpu", "logger=none"]
    run_command(main, "mllm=vlm/tiny_random", "run_dir=out", *only)
    run = Run(tmp_path / "out")
    assert run.finished
    assert len(run.samples) == 12
    told = run.samples["status"] == "ok"
    assert told.sum() >= 3
    # The random model does not say every concept; nothing else goes wrong, and no picture is asked of it.
    assert run.samples["error"][~told].str.contains("is not in the answer").all()
    assert set(run.neurons["modality"]) == {"text"}
    assert run.neurons.groupby(["sample", "method"]).size().eq(3 * 48).all()
