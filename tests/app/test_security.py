"""Nothing that is read can run a program, leave its folder, fill the memory or reach a page unescaped."""

from __future__ import annotations

import pickle
import shutil
import struct
import zlib
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from PIL import Image

from nam.app import attribute, train
from nam.errors import ModelError
from nam.mllm.gill import GILL
from nam.mllm.tensors import read_torch_file
from nam.store import Run
from tests.app.line_part import ARGS, install
from tests.runs import command_line, exit_of, run_command, write_table

#: YAML of a few lines that stands for 2 * 9 ** 10 words.
LAUGHS = "\n".join(
    ["a: &a [x, x]", *(f"{b}: &{b} [{', '.join(9 * [f'*{a}'])}]" for a, b in pairwise("abcdefghijk"))]
)

EVIL = "<script>alert('x')</script><img src=x onerror=alert(1)>"


class Bomb:
    """An object whose unpickling leaves a file behind."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.proof,)


class Tags(HTMLParser):
    """Tags and the names of their attributes, as a browser would see them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, frozenset[str]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, frozenset(name for name, _ in attrs)))


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NAM_RUN_STAMP", "now")


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that is refused; gives its line."""

    def run(main: Callable[[], None], *arguments: str) -> str:
        code, said = exit_of(main, *arguments, capsys=capsys)
        assert code == 2
        return said.splitlines()[-1]

    return run


def test_the_bomb_of_these_tests_goes_off(tmp_path: Path) -> None:
    torch.save({"weight": Bomb(tmp_path / "proof")}, tmp_path / "bomb.pt")
    torch.load(tmp_path / "bomb.pt", weights_only=False)
    assert (tmp_path / "proof").exists()


@pytest.mark.parametrize("part", ["language_model", "unet"])
def test_a_model_that_is_a_pickle_is_not_opened(
    part: str, tmp_path: Path, gill_folder: Path, shared_gill: GILL, refused: Callable[..., str]
) -> None:
    folder = shutil.copytree(gill_folder, tmp_path / "model")
    weights = next((folder / part).glob("*.safetensors"))
    weights.unlink()
    name = "pytorch_model.bin" if part == "language_model" else "diffusion_pytorch_model.bin"
    torch.save({"weight": Bomb(tmp_path / "proof")}, folder / part / name)
    table = write_table(tmp_path / "table.csv", shared_gill)
    line = refused(attribute.main, *command_line(folder, table), "run_dir=out")
    assert line.startswith("error: ")
    assert part in line
    assert not (tmp_path / "proof").exists()


def test_weights_that_are_a_pickle_under_another_name_are_not_opened(
    tmp_path: Path, gill_folder: Path, shared_gill: GILL, refused: Callable[..., str]
) -> None:
    folder = shutil.copytree(gill_folder, tmp_path / "model")
    (folder / "gill/model.safetensors").write_bytes(pickle.dumps(Bomb(tmp_path / "proof")))
    table = write_table(tmp_path / "table.csv", shared_gill)
    line = refused(attribute.main, *command_line(folder, table), "run_dir=out")
    assert "model.safetensors" in line
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize(
    ("key", "target"),
    [
        ("mllm", "os.system"),
        ("data.source", "builtins.eval"),
        ("segmenter", "nam.app.command.os.system"),
        ("relevance", "subprocess.run"),
        ("reduction.nam", "lightning.pytorch.os.system"),
        ("trainer", "torch.load"),
        # Of the packages that are used, but not what a run is made of: these unpickle, and write any file.
        ("mllm", "lightning.fabric.utilities.cloud_io._load"),
        ("trainer", "lightning.pytorch.callbacks.model_checkpoint.get_filesystem"),
        ("trainer", "lightning.pytorch.strategies.strategy._Strategy"),
        ("segmenter", "transformers.pipeline"),
        ("mllm", "transformers.AutoModel.from_pretrained"),
        ("data", "nam.store.files.write_json"),
    ],
)
def test_a_configuration_builds_nothing_foreign(
    key: str, target: str, tmp_path: Path, refused: Callable[..., str]
) -> None:
    line = refused(attribute.main, f"{key}._target_={target}", f"+{key}.command=touch proof", "run_dir=out")
    assert f"{key}._target_={target!r} is refused" in line
    assert not (tmp_path / "proof").exists()


def test_a_checkpoint_of_torch_is_read_without_what_it_would_run(tmp_path: Path) -> None:
    """The one place where torch's own format is opened: GILL's and NExT-GPT's files as they are published."""
    path = tmp_path / "pretrained_ckpt.pth.tar"
    for content in ({"state_dict": Bomb(tmp_path / "proof")}, Bomb(tmp_path / "proof")):
        torch.save(content, path)
        with pytest.raises(ModelError, match=r"pretrained_ckpt\.pth\.tar"):
            read_torch_file(path)
    path.write_bytes(pickle.dumps(Bomb(tmp_path / "proof"), protocol=2))
    with pytest.raises(ModelError, match=r"pretrained_ckpt\.pth\.tar"):
        read_torch_file(path)
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{overrides: ['+hydra.callbacks.evil={_target_: os.makedirs, name: proof}']}", "config"),
        ("{overrides: ['--config-dir=evil', 'hydra/launcher=evil', '~hydra.run']}", "config"),
        ("{overrides: ['data._target_=os.system', '+data.command=touch proof']}", "is refused"),
        ("{overrides: 3}", "is no configuration of a run"),
        ("!!python/object/apply:os.system ['touch proof']", "cannot read"),
        ("[1, 2", "cannot read"),
        (LAUGHS, "aliases"),
    ],
)
def test_a_run_folder_that_was_handed_over_starts_nothing(
    content: str, words: str, tmp_path: Path, refused: Callable[..., str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text(content)
    # Nothing of Hydra's is taken over: what remains differs from the (missing) settings of the run.
    line = refused(attribute.main, "resume=run", "mllm.folder=nowhere")
    assert words in line or "resume=run: the run was started with" in line
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize("name", ["images", "attribute.log"])
def test_a_run_folder_that_was_handed_over_leads_nowhere_else(
    name: str, tmp_path: Path, refused: Callable[..., str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text("overrides: []")
    (tmp_path / "mine").touch() if "." in name else (tmp_path / "mine").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "mine")
    line = refused(attribute.main, "resume=run")
    assert f"{name} leads to {tmp_path / 'mine'}, out of the run folder" in line
    assert not (tmp_path / "mine").stat().st_size or not list((tmp_path / "mine").iterdir())


def bomb_png(path: Path, *, side: int) -> None:
    """A picture whose header promises `side` x `side` pixels, in a few kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(10_000_000), 9)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def test_a_hostile_data_set_gives_error_rows_and_a_harmless_page(
    tmp_path: Path, gill_folder: Path, shared_gill: GILL, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    table = write_table(tmp_path / "data/table.csv", shared_gill, ["a cat", "a star at night ."])
    bomb_png(tmp_path / "data/bomb.png", side=60_000)
    assert (tmp_path / "data/bomb.png").stat().st_size < 20_000
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    rows = pd.read_csv(table)
    said = rows["concept"][0]
    bad = [
        {"id": "bomb", "prompt": "a picture of", "image": "bomb.png", "concept": said},
        {"id": "out", "prompt": "a picture of", "image": "../secret.png", "concept": said},
        {"id": "far", "prompt": "a picture of", "image": "x/../../secret.png", "concept": said},
        {"id": "whole", "prompt": "a picture of", "image": str(tmp_path / "secret.png"), "concept": said},
        {"id": f"../../{EVIL}", "prompt": EVIL, "concept": said, "caption": EVIL},
        {"id": "concept", "prompt": "a cat", "concept": EVIL, "caption": EVIL},
    ]
    pd.concat([rows.assign(caption=EVIL), pd.DataFrame(bad)]).to_csv(table, index=False)
    run_command(attribute.main, *command_line(gill_folder, table), "run_dir=out")
    found = Run("out").samples
    assert (found["status"] == "ok").tolist() == [True] * len(rows) + [False] * len(bad)
    reasons = found["error"][len(rows) :].tolist()
    assert "too large" in reasons[0]
    assert all("leads out of the folder" in reason for reason in reasons[1:4])
    assert found["id"].tolist()[-2] == f"../../{EVIL}"
    assert {path.name for path in tmp_path.iterdir()} == {"data", "secret.png", "out"}
    page = Tags()
    page.feed(Path("out/report.html").read_text())
    assert page.found
    assert not [tag for tag, names in page.found if tag == "script" or any(n.startswith("on") for n in names)]


def test_a_training_goes_on_from_no_pickle(
    tmp_path: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch)
    mine = [*ARGS, "trainer=cpu", "experiment=line/first"]
    run_command(train.main, *mine, "run_dir=run", "trainer.max_steps=2")
    last = Path("run/checkpoints/last.ckpt")
    torch.save({**torch.load(last, weights_only=True), "extra": Bomb(tmp_path / "proof")}, last)
    line = refused(train.main, *mine, "resume=run", "trainer.max_steps=4")
    assert "last.ckpt" in line
    assert not (tmp_path / "proof").exists()
