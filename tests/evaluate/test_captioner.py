"""Captions by a captioning model: those of transformers' own greedy decoding, in batches, on a tiny BLIP."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nam.errors import ConfigError, ModelError
from nam.evaluate import captioner as module
from nam.evaluate.captioner import load_captioner
from nam.evaluate.leaderboard.meaning import _caption
from nam.mllm.parts import quiet_hub
from nam.world.tokenizer import build_tokenizer


def write_blip(folder: Path) -> Path:
    """A tiny random BLIP that says words of the scenes."""
    from transformers import BlipConfig, BlipForConditionalGeneration, BlipImageProcessorPil

    tokenizer = build_tokenizer()
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    ids |= {"sep_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    text = {
        **tower,
        **ids,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 32,
        "encoder_hidden_size": 16,
    }
    config = BlipConfig(
        text_config=text,
        vision_config={**tower, "image_size": 32, "patch_size": 8, "initializer_range": 0.5},
        projection_dim=16,
        image_text_hidden_size=16,
    )
    with torch.random.fork_rng(devices=[]), quiet_hub():
        torch.manual_seed(1)
        model = BlipForConditionalGeneration(config)
        with torch.no_grad():  # what is said should depend on what is seen
            for name, value in model.named_parameters():
                if value.ndim > 1:
                    value.mul_(1.0 if "vision" in name else 12.0)
        model.save_pretrained(folder)
    BlipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    coarse = [Image.fromarray(rng.integers(0, 255, (2, 2, 3), dtype=np.uint8)) for _ in range(5)]
    return [one.resize((30, 20 + i), Image.Resampling.NEAREST) for i, one in enumerate(coarse)]


def test_captions_are_those_of_the_models_own_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_blip(tmp_path / "blip")
    captioner = load_captioner(folder, max_new_tokens=6)
    monkeypatch.setattr(module, "_BATCH", 2)
    found = captioner(pictures())
    assert captioner.checkpoint == "blip"
    assert len(set(found)) > 1
    for picture, caption in zip(pictures(), found, strict=True):
        small = np.asarray(picture.resize((32, 32), Image.Resampling.BICUBIC), dtype=np.float32) / 255
        mean, std = (np.array(getattr(captioner.processor, f"image_{name}")) for name in ("mean", "std"))
        pixels = torch.from_numpy(((small - mean) / std).astype(np.float32)).permute(2, 0, 1)[None]
        with torch.no_grad():
            ids = captioner.model.generate(
                pixel_values=pixels, max_new_tokens=6, do_sample=False, num_beams=1
            )
        words = build_tokenizer().decode(ids[0], skip_special_tokens=True)
        assert caption == " ".join(words.split()) != ""
    assert captioner([]) == []


def test_what_is_no_captioner_is_one_clear_line(tmp_path: Path) -> None:
    folder = write_blip(tmp_path / "blip")
    with pytest.raises(ConfigError, match="device='nowhere'"):
        load_captioner(folder, device="nowhere")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match="cannot read the image processor"):
        load_captioner(folder)
    with pytest.raises(ModelError, match=r"missing weights: .*tiny_gill"):
        load_captioner("tiny_gill")


def test_the_measures_go_by_the_captioner_where_one_is_named() -> None:
    """And by the model itself, asked for a caption, where none is."""
    said = SimpleNamespace(generate_batch=lambda samples, draw: [SimpleNamespace(text=samples[0].prompt)])
    bench: Any = SimpleNamespace(mllm=said)
    drawn: Any = SimpleNamespace(id="p1", work=SimpleNamespace(answer=SimpleNamespace(image=pictures()[0])))
    assert _caption(bench, drawn, None) == "a picture of"
    named: Any = lambda pictures: [f"{len(pictures)} picture of {pictures[0].size}"]  # noqa: E731
    assert _caption(bench, drawn, named) == "1 picture of (30, 20)"
    silent: Any = lambda pictures: [""]  # noqa: E731
    assert _caption(bench, drawn, silent) is None
    undrawn: Any = SimpleNamespace(id="p1", work=SimpleNamespace(answer=SimpleNamespace(image=None)))
    assert _caption(bench, undrawn, named) is None
