"""Every training can go on from weights that are there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nam.app.build import build
from nam.app.config import compose
from nam.errors import ModelError
from nam.folders import weights_folder
from nam.mllm.gill_folder import GLUE_FILE

WEIGHTS = weights_folder("tiny_gill")
#: Part -> where its weights are in the module, and in which file.
PARTS = {
    "autoencoder": ("vae", "vae/diffusion_pytorch_model.safetensors"),
    "clip": ("clip", "clip/model.safetensors"),
    "unet": ("unet", "unet/diffusion_pytorch_model.safetensors"),
    "language": ("model", "language_model/model.safetensors"),
}


def make(part: str, *changes: str):
    """The part's module as `train.py` builds it."""
    where = [f"weights_dir={WEIGHTS}", *changes]
    return build(compose("train", [f"experiment=tiny_gill/{part}", *where]).part.module)


@pytest.mark.parametrize("part", PARTS)
def test_a_training_starts_from_given_weights(part: str) -> None:
    name, file = PARTS[part]
    saved = load_file(WEIGHTS / file)
    started = getattr(make(part, f"part.module.start_from={WEIGHTS}"), name).state_dict()
    new = getattr(make(part), name).state_dict()
    assert saved.keys() <= started.keys()
    for key, value in saved.items():
        assert torch.equal(started[key], value.to(started[key])), key
    assert any(not torch.equal(new[key], value.to(new[key])) for key, value in saved.items())


def test_the_glue_starts_from_given_weights() -> None:
    saved = load_file(WEIGHTS / GLUE_FILE)
    started = make("glue", f"part.module.start_from={WEIGHTS}")
    rows = started.img_rows.detach()
    assert started.img_rows.requires_grad
    assert torch.equal(rows, saved["input_embeddings.weight"].to(rows))
    weight = started.gill.visual_embeddings.weight.detach()
    assert torch.equal(weight, saved["visual_embeddings.weight"].to(weight))
    assert not torch.equal(make("glue").img_rows.detach(), rows)


def test_clip_can_leave_the_text_tower_alone() -> None:
    part = make("clip", f"part.module.start_from={WEIGHTS}", "part.module.train_text=false")
    trained = {name for name, value in part.named_parameters() if value.requires_grad}
    assert not any(name.startswith(("clip.text_model", "clip.text_projection")) for name in trained)
    assert any(name.startswith("clip.vision_model") for name in trained)


def test_a_start_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="vae"):
        make("autoencoder", f"part.module.start_from={tmp_path}")
