"""What the jobs of a sweep of edits share: the attribution, where it is the same for them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from nam.app.config import compose
from nam.app.edit_neurons import SHARED, _means
from nam.app.sweep import SWEEPING
from nam.editor.ranking import Means
from nam.mllm.gill import GILL

EDIT = ["edit.source=cat", "edit.target=dog"]


@pytest.fixture
def attributed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the number of prompts whenever something is attributed, which gives that number as scores."""
    asked: list[int] = []

    def attribute(cfg: DictConfig, mllm: GILL) -> Means:
        asked.append(cfg.edit.select.samples)
        scores = torch.full((2, 64), float(len(asked)))
        return {("cat", "image"): (scores, -scores)}

    monkeypatch.setattr("nam.app.edit_neurons._attributed", attribute)
    return asked


def score(folder: Path, job: int, mllm: GILL, *overrides: str) -> float:
    """What a job's neurons are ranked by."""
    cfg = compose("edit", [*EDIT, *overrides, f"run_dir={folder / str(job)}"])
    scores, activations = _means(cfg, mllm)["cat", "image"]
    assert torch.equal(activations, -scores)
    return float(scores[1, 63])


def test_jobs_share_what_would_be_the_same(
    attributed: list[int], shared_gill: GILL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SWEEPING, "1")
    same = [
        ["edit.k=8"],
        ["edit.k=32"],
        ["editor=finetune"],
        ["edit.select.by=random"],
        ["edit.target=horse"],
    ]
    assert [score(tmp_path, job, shared_gill, *one) for job, one in enumerate(same)] == [1] * 5
    assert attributed == [2]
    others = [
        *(["edit.select.samples=3"], ["seed=1"], ["relevance=attention"], ["reduction=[act]"]),
        *(["edit.select.contrast=false"], ["segmenter=none"], ["mllm.steps=7"]),
    ]
    found = [score(tmp_path, job, shared_gill, *one) for job, one in enumerate(others)]
    assert found == [2, 3, 4, 5, 6, 7, 8]
    assert score(tmp_path, 9, shared_gill, "edit.select.contrast=false", "edit.source=horse") == 9
    assert len(list((tmp_path / SHARED).iterdir())) == 9


def test_a_run_alone_keeps_nothing(
    attributed: list[int], shared_gill: GILL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SWEEPING, raising=False)
    assert [score(tmp_path, job, shared_gill) for job in range(2)] == [1, 2]
    assert attributed == [2, 2]
    assert not list(tmp_path.iterdir())
