"""Loading: by name or folder, from half precision, and clear when something is missing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import nam
from nam.errors import ConfigError, ModelError
from nam.mllm.config import GillConfig
from nam.mllm.gill import GILL
from nam.mllm.gill_folder import read_gill, write_gill
from nam.mllm.load import settings_of, target
from tests.tiny_random import CONFIG


@pytest.fixture
def folder(gill_folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(gill_folder, tmp_path / "copy"))


def test_a_folder_loads_frozen_in_float32(gill_folder: Path) -> None:
    model = nam.load(gill_folder)
    assert isinstance(model, GILL)
    assert model.name == gill_folder.name
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    saved = load_file(gill_folder / "gill" / "model.safetensors")
    assert {value.dtype for value in saved.values()} == {torch.float16}
    state = model.gill_state_dict()
    assert state.keys() == saved.keys()
    assert all(torch.equal(state[key], saved[key].float()) for key in saved)
    tied = model.language_model
    assert tied.get_input_embeddings().weight is tied.get_output_embeddings().weight
    rows = model.unembedding[list(model.codec.img_ids)]
    assert torch.equal(rows, saved["input_embeddings.weight"].float())
    assert model.codec.img_ids == tuple(range(len(model.tokenizer) - 8, len(model.tokenizer)))


def test_overrides_reach_the_model(gill_folder: Path) -> None:
    model = nam.load(gill_folder, sampler="ddim", steps=2, guidance=1.5, dtype="bfloat16")
    assert isinstance(model, GILL)
    assert model.dtype == torch.bfloat16
    out = model.generate(prompt="a dog", draw=True, max_new_tokens=1)
    assert out.drawn is not None
    assert (out.drawn.sampler, out.drawn.steps, out.drawn.guidance) == ("DDIMScheduler", 2, 1.5)
    assert out.hidden.dtype == torch.float32


def test_the_shipped_config_fits_what_reads_it() -> None:
    settings = settings_of("tiny_gill")
    assert target(settings.pop("_target_")) is read_gill
    assert settings.keys() <= read_gill.__kwdefaults__.keys() | {"folder"}


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("tiny_gil", {}, r"mllm=tiny_gil is neither a config \(did you mean 'tiny_gill'\?\) nor a folder"),
        ("tiny_gill", {"stepz": 3}, r"mllm.stepz is unknown \(did you mean 'steps'"),
        ("FOLDER", {"dtype": "float23"}, r"mllm.dtype='float23' is unknown \(did you mean 'float32'"),
        ("FOLDER", {"device": "gpu"}, "mllm.device='gpu' cannot be used"),
        ("FOLDER", {"glue": "old"}, "mllm.glue must be"),
        ("FOLDER", {"steps": "many"}, "mllm.steps must be an integer of at least 1, got 'many'"),
        (5, {}, "mllm: expected the name of a config or a model's folder, got 5"),
        (None, {}, "expected the name of a config or a model's folder, got None"),
    ],
)
def test_bad_settings_are_refused(
    gill_folder: Path, name: Any, overrides: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        nam.load(gill_folder if name == "FOLDER" else name, **overrides)


def remove(part: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / part
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()

    return change


def drop_tensor(part: str, key: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / part
        state = load_file(path)
        del state[key]
        save_file(state, path, metadata={"format": "pt"})

    return change


def damage(part: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / part
        path.write_bytes(path.read_bytes()[:500])

    return change


def set_key(**values: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


GLUE, LM, UNET = (
    "gill/model.safetensors",
    "language_model/model.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove("config.json"), "cannot read .*config.json"),
        (remove("language_model"), "missing weights: there is no folder .*language_model"),
        (remove(LM), "missing weights: .*language_model holds no .safetensors"),
        (remove("language_model/tokenizer_config.json"), "no tokenizer in"),
        (remove(GLUE), "missing weights: there is no file .*gill"),
        (remove("unet"), "missing weights: there is no folder .*unet"),
        (remove("vae/config.json"), "cannot read .*vae"),
        (remove("clip"), "missing weights: there is no folder .*clip"),
        (remove("scheduler"), "cannot read .*scheduler_config.json"),
        (drop_tensor(LM, "model.decoder.layers.1.fc2.weight"), "does not hold a whole OPT.*fc2.weight"),
        (drop_tensor(UNET, "conv_in.weight"), "UNet2DConditionModel.*conv_in.weight"),
        (drop_tensor(GLUE, "gen_text_hidden_fcs.0.query_embs"), "lack gen_text_hidden_fcs.0.query_embs"),
        (damage(LM), "cannot read .* from .*language_model"),
        (damage(GLUE), "cannot read .*gill"),
        (
            set_key(mapper_dim=32),
            r"query_embs should be \(1, 16, 32\) by the model's config, got \(1, 16, 16\)",
        ),
        (set_key(vision_dim=17, n_visual_tokens=5), r"visual_embeddings.weight should be \(160, 17\)"),
        (set_key(mapper_dims=32), r"unknown key 'mapper_dims' \(did you mean 'mapper_dim'"),
        (set_key(mapper_heads=3), "mapper_dim must be a multiple of mapper_heads, got 16 and 3"),
        (set_key(steps="many"), "a value has the wrong type"),
        (set_key(latent_mean=None), "latent_mean and latent_std go together"),
        (set_key(latent_mean=[0.0], latent_std=[1.0]), "each of the autoencoder's 4 channels, got 1 and 1"),
        (set_key(model_type="gull"), r"model_type 'gull' is unknown \(did you mean 'gill'"),
    ],
)
def test_missing_and_damaged_weights_are_named(
    folder: Path, change: Callable[[Path], None], message: str
) -> None:
    change(folder)
    with pytest.raises(ModelError, match=message):
        nam.load(folder).generate(prompt="a dog", draw=True, steps=1, max_new_tokens=1)


def test_what_a_config_leaves_open_has_to_be_given(gill_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"^id is missing: nam\.load\('vlm', id=\.\.\.\)$"):
        nam.load("vlm")
    with pytest.raises(ConfigError, match=r"^checkpoint is missing: nam\.load\('gill', checkpoint="):
        nam.load("gill")
    with pytest.raises(ModelError, match="model type `gill`"):
        nam.load("vlm", id=gill_folder)  # what is given is taken


def test_no_name_is_not_the_folder_one_is_in(gill_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(gill_folder)
    with pytest.raises(ConfigError, match="mllm='' is neither a config"):
        nam.load("")
    assert isinstance(nam.load("."), GILL)


def test_targets_outside_the_package_are_refused() -> None:
    with pytest.raises(ConfigError, match="must be a function of this package"):
        target("os.system")


def test_a_new_glue_is_random_and_its_file_round_trips(folder: Path, tmp_path: Path) -> None:
    (folder / "gill" / "model.safetensors").unlink()
    torch.manual_seed(1)
    fresh = read_gill(folder=folder, glue="new")
    write_gill(fresh, folder)
    back = read_gill(folder=folder)
    for key, value in fresh.gill_state_dict().items():
        assert torch.equal(back.gill_state_dict()[key], value.half().float())
    assert GillConfig.load(folder) == CONFIG
    with torch.no_grad():
        fresh.visual_embeddings.bias[0] = 1e6
    with pytest.raises(ModelError, match=r"visual_embeddings\.bias is not finite"):
        write_gill(fresh, tmp_path)


def test_published_names_load(gill: GILL) -> None:
    state = {key: value + 0.25 for key, value in gill.gill_state_dict().items()}
    published = {f"module.model.{key}": value.half() for key, value in state.items()}
    with pytest.raises(ModelError, match=r"have unknown logit_scale, visual_fc.weight \(2 tensors\)"):
        gill.load_gill_state(
            {**published, "logit_scale": torch.ones(()), "visual_fc.weight": torch.ones(2, 3)}
        )
    gill.load_gill_state(published)
    after = gill.gill_state_dict()
    assert all(torch.equal(after[key], value.half().float()) for key, value in state.items())


def test_the_language_model_is_untouched_but_for_its_new_rows(gill: GILL, gill_folder: Path) -> None:
    saved = load_file(gill_folder / "language_model" / "model.safetensors")
    words = saved["model.decoder.embed_tokens.weight"].float()
    assert torch.equal(gill.unembedding[: len(words)], words)
    assert len(gill.unembedding) == len(words) + 8
