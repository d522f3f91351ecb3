"""Any bytes and any text where a picture, a table, a patch or a run folder should be.

What is read either is what it says, or is refused by an error of ours; nothing else may come out. `make
test-all` tries about a hundred times more (`--hypothesis-profile=thorough`).
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from nam.data.folder import COLUMNS, Folder
from nam.editor.delta import Delta, EditError
from nam.editor.delta_file import read_delta, write_delta
from nam.errors import ConfigError, InputError
from nam.mllm.pictures import FORMATS, read_picture
from nam.store import Run, RunWriter, StoreError
from nam.types import Concept, Neuron, NeuronSet
from tests.store.results import MANIFEST, result, words

#: Hypothesis's own number is for tests that take no time.
FUZZ = settings(
    max_examples=max(20, settings.default.max_examples - 100),  # type: ignore[union-attr]
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@st.composite
def damages(draw: st.DrawFn, whole: bytes) -> bytes:
    """The bytes with some changed, cut off, or put in."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        kind = draw(st.sampled_from(["change", "cut", "insert", "repeat"]))
        if kind == "change" and data:
            data[at] = draw(st.integers(0, 255))
        elif kind == "cut":
            del data[at : at + draw(st.integers(1, len(data) or 1))]
        elif kind == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=8))
        else:
            data[at:at] = data[at : at + 16]
    return bytes(data)


def picture_bytes(kind: str) -> bytes:
    """A small picture in a file of this kind."""
    noise = np.random.default_rng(0).integers(0, 255, (6, 5, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, format=kind)
    return file.getvalue()


PICTURES = {kind: picture_bytes(kind) for kind in FORMATS}


@FUZZ
@given(
    data=st.one_of(
        st.binary(max_size=200), st.sampled_from(sorted(PICTURES)).flatmap(lambda k: damages(PICTURES[k]))
    )
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of damaged metadata
def test_any_bytes_are_a_picture_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.png"
    path.write_bytes(data)
    try:
        found = read_picture(path)
    except InputError:
        return
    assert found.mode == "RGB"
    assert np.asarray(found).shape == (found.height, found.width, 3)


CELL = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["../x.png", "/etc/passwd", "~/a.png", "a\x00b", "=1+1", "1e400", "NaN", "-1", "text|image"]
    ),
)
ROW = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(COLUMNS, CELL),
)


@FUZZ
@given(rows=st.lists(ROW, min_size=1, max_size=4), ending=st.sampled_from([".csv", ".jsonl"]))
def test_any_captions_are_asked_or_have_a_reason(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, str]], ending: str
) -> None:
    path = tmp_path_factory.getbasetemp() / f"fuzzed{ending}"
    if ending == ".csv":
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, fieldnames=COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
        content = text.getvalue()
    else:
        content = "\n".join(json.dumps(row) for row in rows)
    path.write_bytes(content.encode("utf-8", "replace"))
    try:
        source = Folder(table=str(path))
    except ConfigError:
        return
    for index in range(len(source)):
        item = source[index]
        assert item.index == index
        assert item.modalities in (("text",), ("image",), ("text", "image"))
        if item.error:
            assert "\n" not in item.error
        else:
            assert isinstance(item.sample.concept, Concept)
            assert item.sample.seed >= 0


def patch() -> Delta:
    """A small patch."""
    rng = torch.Generator().manual_seed(0)
    original, edited = (torch.randn(2, 3, generator=rng) for _ in range(2))
    return Delta(
        neurons=NeuronSet((Neuron(0, 1), Neuron(1, 4))),
        original=original,
        edited=edited,
        model="m",
        revision="r",
    )


@pytest.fixture(scope="module")
def patch_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_delta(patch(), tmp_path_factory.mktemp("patch") / "patch.safetensors").read_bytes()


@FUZZ
@given(data=st.data())
def test_a_damaged_patch_is_refused_or_the_same(
    tmp_path_factory: pytest.TempPathFactory, patch_bytes: bytes, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.safetensors"
    path.write_bytes(data.draw(st.one_of(st.binary(max_size=100), damages(patch_bytes))))
    try:
        found = read_delta(path)
    except EditError:
        return
    whole = patch()  # what is left after a change that matters is caught by its digests
    assert torch.equal(found.original, whole.original)
    assert torch.equal(found.edited, whole.edited)
    assert found.neurons == whole.neurons


@pytest.fixture(scope="module", params=[True, False], ids=["finished", "interrupted"])
def run_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two samples."""
    folder = tmp_path_factory.mktemp("run")
    with RunWriter(folder, manifest=MANIFEST, words=words, top=3) as writer:
        for index in (0, 1):
            writer.add(result(index))
            writer.flush()
        if request.param:
            writer.finish(metrics={"samples": 2})
    return folder


@FUZZ
@given(data=st.data())
def test_a_damaged_run_folder_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, run_folder: Path, data: st.DataObject
) -> None:
    names = [
        path.relative_to(run_folder)
        for path in sorted(run_folder.rglob("*"))
        if path.is_file() and path.suffix in (".json", ".parquet", ".safetensors")
    ]
    name = data.draw(st.sampled_from(names))
    content = (run_folder / name).read_bytes()
    folder = tmp_path_factory.mktemp("damaged") / "run"
    shutil.copytree(run_folder, folder)
    (folder / name).write_bytes(data.draw(damages(content)))
    with suppress(StoreError):
        run = Run(folder)
        _ = run.samples, run.neurons, run.metrics, run.finished, run.done, run.words([(0, 0)])
        for key in run.keys:
            run.scores(*key)
    shutil.rmtree(folder)
