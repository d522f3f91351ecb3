"""Every weight and setting that decides a model's answers is in its fingerprint."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from nam.mllm import fingerprint as module
from nam.mllm.fingerprint import digest_at, digest_of, fingerprint, part_digests
from nam.mllm.gill import GILL
from nam.mllm.gill_folder import read_gill
from nam.mllm.hub import HubFolder, origin_of
from nam.segmenter.scenes import SceneSegmenter

FILES = [
    ("clip/model.safetensors", {"vision.vision", "diffusion.parts.text_tower"}),
    ("unet/diffusion_pytorch_model.safetensors", {"diffusion.parts.unet"}),
    ("vae/diffusion_pytorch_model.safetensors", {"diffusion.parts.vae"}),
    ("vae/config.json", {"diffusion.parts.vae"}),
    ("scheduler/scheduler_config.json", {"diffusion.parts.scheduler"}),
]


@pytest.mark.parametrize(("name", "changed"), FILES, ids=[name for name, _ in FILES])
def test_a_byte_of_a_part_s_file_changes_its_digest_alone(
    name: str, changed: set[str], gill_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(gill_folder, tmp_path / "model")
    before = part_digests(read_gill(folder=folder))
    data = bytearray((folder / name).read_bytes())
    data[-2] ^= 1
    (folder / name).write_bytes(bytes(data))
    after = part_digests(read_gill(folder=folder))
    assert before.keys() == after.keys()
    assert {part for part in before if before[part] != after[part]} == changed


def test_a_weight_in_memory_changes_the_digest_of_its_part_alone(gill: GILL) -> None:
    before, neurons = part_digests(gill), fingerprint(gill)
    for part in ("visual_embeddings", "mapper"):
        with torch.no_grad():
            next(gill.get_submodule(part).parameters()).mul_(1.5)
        after = part_digests(gill)
        assert {name for name in before if before[name] != after[name]} == {part}
        before = after
    assert fingerprint(gill) == neurons
    with torch.no_grad():
        gill.ffn_sites[0].linear.weight.mul_(1.5)
    assert part_digests(gill) == before
    assert fingerprint(gill) != neurons


def test_settings_of_pictures_are_in_it(gill_folder: Path) -> None:
    plain, other = (part_digests(read_gill(folder=gill_folder, guidance=g)) for g in (3.0, 4.0))
    assert {name for name in plain if plain[name] != other[name]} == {"config"}


def test_reading_a_part_changes_nothing_and_none_is_read_for_it(gill: GILL) -> None:
    before = part_digests(gill)
    assert not gill.vision.loaded
    assert not gill.diffusion.parts.loaded
    gill.generate(prompt="draw a red horse .", draw=True, steps=1)
    assert gill.diffusion.parts.loaded
    assert part_digests(gill) == before


def test_a_part_of_unknown_origin_is_read(gill: GILL) -> None:
    gill.vision.origins.clear()
    found = part_digests(gill)["vision.vision"]
    assert found == digest_of(gill.vision.get("vision", like=gill.unembedding))


def test_large_files_are_looked_at_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WHOLE", 1000)
    path = tmp_path / "weights.bin"
    values = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0))

    def digest(numbers: torch.Tensor, tail: bytes = b"") -> str:
        path.write_bytes(numbers.numpy().tobytes() + tail)
        return digest_at(tmp_path)

    first = digest(values)
    assert digest(values.clone()) == first
    others = {digest(values * 1.0001), digest(values, b"\0"), digest(torch.cat([values[:-1], values[:1]]))}
    assert len(others | {first}) == 4


def test_hidden_files_do_not_count_and_names_do(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("1")
    first = digest_at(tmp_path)
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "lock").write_text("x")
    assert digest_at(tmp_path) == first
    (tmp_path / "a.json").rename(tmp_path / "b.json")
    assert digest_at(tmp_path) != first


def test_the_hub_is_not_asked() -> None:
    assert digest_at(origin_of(HubFolder("a/b", "v1"), "unet")) == "a/b@v1/unet"
    assert origin_of(HubFolder("a/b")) == "a/b@main"
    assert origin_of(Path("x"), "unet") == Path("x/unet")


def test_the_segmenter_s_weights_have_a_place() -> None:
    assert (SceneSegmenter().origin / "model.safetensors").is_file()
