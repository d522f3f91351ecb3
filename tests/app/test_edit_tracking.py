"""What the trackers get of an edit: an offline W&B run's own records, read back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from nam.editor import read_delta
from tests.app.edits import edit
from tests.app.test_tracking import records

__all__ = ["edit"]


def test_a_tracker_gets_settings_curves_pictures_and_the_patch(edit: Callable[..., Path]) -> None:
    out = edit("out", "logger=many", "editor=finetune", "editor.steps=3", "editor.batch=4")
    (path,) = out.glob("wandb/offline-run-*/*.wandb")
    history: list[dict[str, Any]] = []
    config: dict[str, Any] = {}
    artifacts = []
    for record in records(path):
        items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
        history.append({name: json.loads(value) for name, value in items.items()})
        for item in record.run.config.update or record.config.update:
            config[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
        for request in (record.artifact, record.request.log_artifact.artifact):
            if request.name:
                artifacts.append(request)
    metrics = json.loads((out / "metrics.json").read_text())
    curve = json.loads((out / "curve.json").read_text())["steps"]

    assert config["edit"]["source"] == "cat"
    assert config["editor"]["batch"] == 4
    losses = [row["edit/loss"] for row in history if "edit/loss" in row]
    assert losses == pytest.approx([row["edit/loss"] for row in curve])
    assert len(losses) == 3
    scalars = {name: value for row in history for name, value in row.items()}
    for name in ("norm", "others_drawn", "drawn", "clip_target", "neurons"):
        assert scalars[name] == pytest.approx(metrics[name]), name
    assert scalars["seconds/edit"] == pytest.approx(metrics["seconds"]["edit"])
    folder = path.parent / "files" / "media" / "images"
    for name, like in (("before_after", out / "before_after.png"), ("locality", None)):
        assert scalars[f"{name}/_type"] == "images/separated"
        with Image.open(next(folder.glob(f"{name}_*.png"))) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        assert pixels.std() > 10
        if like is not None:
            assert np.array_equal(pixels, np.asarray(Image.open(like).convert("RGB")))
    (artifact,) = artifacts
    assert (artifact.type, artifact.name) == ("edit", "edit-out")
    (entry,) = artifact.manifest.contents
    assert entry.path == "patch.safetensors"
    assert entry.size == (out / "patch.safetensors").stat().st_size
    assert json.loads(artifact.metadata)["norm"] == pytest.approx(read_delta(entry.local_path).norm)
    logged = pd.read_csv(out / "curves" / "version_0" / "metrics.csv")
    assert logged["edit/loss"].dropna().tolist() == pytest.approx(losses)


def test_a_job_that_fails_leaves_no_records_open(
    edit: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    def fail(*_: object) -> None:
        raise RuntimeError("half-way")

    monkeypatch.setattr("nam.app.edited.measured", fail)
    with pytest.raises(SystemExit):
        edit("out", "logger=wandb")
    assert wandb.run is None
    assert len(list(Path("out").glob("wandb/offline-run-*"))) == 1
