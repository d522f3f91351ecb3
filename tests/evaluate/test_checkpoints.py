"""Checkpoints are found by name, refused in one line, and named in every column."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from torch import Tensor

from nam.errors import ConfigError, ModelError
from nam.evaluate.checkpoints import Checkpoint, column, find_checkpoint
from nam.evaluate.contextual import load_embedder
from nam.evaluate.scene_similarity import load_scene_similarity
from tests.evaluate.tiny_text import write_similarity


def test_columns_name_checkpoint_and_protocol() -> None:
    assert column("clipscore", "tiny_gill") == "clipscore[tiny_gill]"
    assert column("bertscore", "a/b", layer=0, idf=True) == "bertscore[a/b,layer=0,idf]"
    assert column("bertscore", "a/b", layer=9, idf=False, prefix=None) == "bertscore[a/b,layer=9]"


def test_a_checkpoint_is_a_folder_a_shipped_name_or_a_hub_id(tmp_path: Path) -> None:
    whole = write_similarity(tmp_path / "mine")
    assert find_checkpoint(whole, part="similarity") == Checkpoint("mine", whole / "similarity")
    assert find_checkpoint(whole) == Checkpoint("mine", whole)
    assert find_checkpoint("tiny_gill", part="clip").name == "tiny_gill"
    assert find_checkpoint("tiny_gill", part="clip").local
    assert find_checkpoint("Elron/bleurt-base-512") == Checkpoint(
        "Elron/bleurt-base-512", "Elron/bleurt-base-512"
    )
    for wrong in ("tiny_gil", "/no/where", "./nowhere", tmp_path / "none"):
        with pytest.raises(ModelError, match="there is no folder"):
            find_checkpoint(wrong)


def rewritten(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Write a similarity model whose weights were changed."""
    write_similarity(folder)
    file = folder / "similarity" / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})


def test_incomplete_weights_are_refused(tmp_path: Path) -> None:
    rewritten(tmp_path, lambda weights: weights.pop("bert.encoder.layer.1.output.dense.weight"))
    with pytest.raises(ModelError, match=r"1 missing keys, first .*layer\.1\.output\.dense\.weight"):
        load_scene_similarity(tmp_path)


def test_an_embedder_needs_no_pooler(tmp_path: Path) -> None:
    rewritten(tmp_path, lambda weights: [weights.pop(name) for name in list(weights) if "pooler" in name])
    assert load_embedder(tmp_path)(["a cat"])[0].vectors.isfinite().all()
    with pytest.raises(ModelError, match="2 missing keys"):
        load_scene_similarity(tmp_path)


def test_a_nan_among_weights_is_refused(tmp_path: Path) -> None:
    rewritten(tmp_path, lambda weights: weights["bert.pooler.dense.bias"][0].fill_(float("nan")))
    with pytest.raises(ModelError, match=r"pooler\.dense\.bias holds NaN or infinity"):
        load_scene_similarity(tmp_path)


def test_no_pickle_is_read(tmp_path: Path) -> None:
    import torch

    write_similarity(tmp_path)
    folder = tmp_path / "similarity"
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    assert load_scene_similarity(tmp_path)(["a cat"], ["a dog"]).isfinite().all()  # tensors alone: harmless
    torch.save({**state, "bert.pooler.dense.bias": _Trap()}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="cannot read"):
        load_scene_similarity(tmp_path)


class _Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("code ran",))


def test_missing_parts_and_wrong_settings_are_one_line(tmp_path: Path) -> None:
    write_similarity(tmp_path)
    with pytest.raises(ConfigError, match="layer must be from 0 to 2"):
        load_embedder(tmp_path, layer=3)
    with pytest.raises(ConfigError, match="device='nowhere' cannot be used"):
        load_embedder(tmp_path, device="nowhere")
    (tmp_path / "similarity" / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="tokenizer"):
        load_embedder(tmp_path)
