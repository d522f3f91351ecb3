"""Sounds and videos through the command, the run folder and the report."""

from __future__ import annotations

import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from nam.app.attribute import main
from nam.data.folder import Folder
from nam.mllm.pictures import read_picture
from nam.store import Run
from nam.store.schema import ADDED
from nam.store.sounds import write_wav
from nam.types import Sound
from tests.runs import run_command

ROWS: list[dict[str, Any]] = [
    {"id": "heard", "prompt": "a tree", "concept": "tree", "modality": "audio", "start": 0.5},
    {"id": "seen", "prompt": "a tree", "concept": "tree", "modality": "text+video", "stop": 0.4},
    {"id": "drawn", "prompt": "a tree", "concept": "tree", "modality": "image"},
    {
        "id": "backwards",
        "prompt": "a tree",
        "concept": "tree",
        "modality": "audio",
        "start": 0.5,
        "stop": 0.2,
    },
    {"id": "bad", "prompt": "a tree", "concept": "tree", "modality": "audio", "start": "early"},
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("media")
    (folder / "asked.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    settings = [
        "mllm.steps=1",
        "draw=true",
        "max_new_tokens=6",
        "segmenter=none",
        "trainer=cpu",
        "logger=none",
    ]
    data = ["data=folder", f"data.source.table={folder / 'asked.jsonl'}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("NAM_RUN_STAMP", "now")
        run_command(main, "mllm=nextgpt/tiny_random", *settings, *data, "run_dir=out")
    return Run(folder / "out")


def test_every_medium_has_scores_of_its_own(run: Run) -> None:
    samples: Any = run.samples.set_index("id")
    assert run.finished
    kinds = run.neurons.groupby("sample")["modality"].unique().map(sorted).to_dict()
    assert kinds["heard"] == ["audio"]
    assert kinds["drawn"] == ["image"]
    assert "video" in kinds["seen"]
    assert {"backwards", "bad"}.isdisjoint(kinds)
    asked = samples[["text_status", "image_status", "audio_status", "video_status"]]
    assert asked.loc["heard"].dropna().to_dict() == {"audio_status": "ok"}
    assert asked.loc["seen"].dropna().to_dict()["video_status"] == "ok"
    assert asked.loc["drawn"].dropna().to_dict() == {"image_status": "ok"}
    assert "goes from 0 or more to 1 or less, got 0.5 to 0.2" in samples.loc["backwards", "audio_error"]
    assert "start and stop must be shares of the whole" in samples.loc["bad", "error"]
    assert run.metrics["audio"] == {"ok": 1, "error": 1}
    assert run.metrics["video"] == {"ok": 1, "error": 0}


def test_what_was_drawn_is_kept(run: Run) -> None:
    samples: Any = run.samples.set_index("id")
    assert samples["sound"].notna().tolist() == [True, False, False, True, False]
    with wave.open(str(run.image(samples.loc["heard", "sound"]))) as sound:
        assert (sound.getframerate(), sound.getnframes(), sound.getnchannels()) == (1600, 400, 1)
    sizes = {name: read_picture(run.image(samples.loc[name, "picture"])).size for name in ("heard", "seen")}
    assert sizes == {"heard": (40, 16), "seen": (96, 64)}
    masks = {
        name: np.asarray(read_picture(run.image(samples.loc[name, "mask"])))[..., 0] > 0 for name in sizes
    }
    assert masks["heard"].any(0).tolist() == [False] * 20 + [True] * 20
    assert masks["seen"][:32].all()  # the first two frames of three
    assert not masks["seen"][32:].any()


def test_the_report_plays_and_shows_them(run: Run) -> None:
    page = (run.folder / "report.html").read_text()
    assert page.count('<audio controls src="data:audio/wav;base64,') == 2
    assert "media-src data:" in page
    for words in ("A-neurons: they sound it", "V-neurons: they film it", "I-neurons: they draw it"):
        assert words in page
    assert "spectrogram of the sound" in page
    assert "frames of the video" in page


def test_runs_of_the_first_version_are_read(run: Run, tmp_path: Path) -> None:
    for path in run.folder.glob("*"):
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    table = pq.read_table(run.folder / "samples.parquet")
    pq.write_table(table.drop_columns(list(ADDED)), tmp_path / "samples.parquet")
    manifest = json.loads((tmp_path / "manifest.json").read_text()) | {"schema_version": 1}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    old = Run(tmp_path).samples
    assert list(old.columns) == list(run.samples.columns)
    assert old["sound"].isna().all()
    pd.testing.assert_series_equal(old["image_status"], run.samples["image_status"])


def test_sounds_are_written_as_they_are(tmp_path: Path) -> None:
    write_wav(Sound(torch.tensor([0.0, 0.5, -1.0, 7.0]), 8000), tmp_path / "a.wav")
    with wave.open(str(tmp_path / "a.wav")) as sound:
        values = np.frombuffer(sound.readframes(9), dtype="<i2").tolist()
        assert sound.getframerate() == 8000
    assert values == [0, 16384, -32767, 32767]


def test_a_table_says_what_is_drawn_and_when(tmp_path: Path) -> None:
    lines = ["concept,prompt,modality,start,stop", "dog,a dog,Audio,,0.5", "dog,a dog,sound,,"]
    (tmp_path / "asked.csv").write_text("\n".join(lines))
    first, second = Folder(table=str(tmp_path / "asked.csv"))[0], Folder(table=str(tmp_path / "asked.csv"))[1]
    assert (first.modalities, first.time, first.error) == (("audio",), (0.0, 0.5), "")
    assert "got 'sound' (or one of audio, video, text+audio, text+video)" in second.error
