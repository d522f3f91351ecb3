"""What cannot be written or kept: a full disk, a read-only folder, scores that are not numbers."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nam.store import Run, RunWriter, StoreError
from nam.store.rows import rank_neurons
from nam.types import Concept, Scores
from tests.store.results import LAYERS, MANIFEST, UNITS, result, words


@pytest.mark.parametrize("by_command", [True, False])
def test_full_disk_is_one_line_and_the_rest_stays_readable(tmp_path: Path, by_command: bool) -> None:
    if by_command:  # which leaves its configuration in the run folder
        (tmp_path / "config.yaml").write_text("seed: 0")
    code = (
        "import resource\n"
        "from nam.store import RunWriter, StoreError\n"
        "from tests.store.results import *\n"
        "try:\n"
        f"    with RunWriter({str(tmp_path)!r}, manifest=MANIFEST, words=words) as writer:\n"
        "        writer.add(result(0)); writer.flush(); [writer.add(result(i)) for i in range(1, 40)]\n"
        "        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))\n"
        "        writer.flush()\n"
        "except StoreError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("the disk is full: cannot write ")
    assert done.stdout.count("\n") == 1
    again = f"go on with resume={tmp_path}\n" if by_command else "Free some space and try again\n"
    assert done.stdout.endswith(again)
    assert Run(tmp_path).done == {0}
    assert not list((tmp_path / "shards").glob("*.tmp"))


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_read_only_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(StoreError, match=f"{os.strerror(code)}.* Set run_dir"):
        RunWriter(tmp_path / "run", manifest=MANIFEST)


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(StoreError, match="cannot write"):
        RunWriter(tmp_path / "run", manifest=MANIFEST)


def test_a_run_does_not_go_on_with_other_weights(tmp_path: Path) -> None:
    model = MANIFEST["model"]
    RunWriter(tmp_path, manifest=MANIFEST | {"model": model | {"revision": "aa"}}).close()
    with pytest.raises(StoreError, match=r"other weights \(fingerprint aa, this model has bb\)"):
        RunWriter(tmp_path, manifest=MANIFEST | {"model": model | {"revision": "bb"}}, resume=True)
    RunWriter(tmp_path, manifest=MANIFEST | {"model": model | {"revision": "aa"}}, resume=True).close()


@pytest.mark.parametrize("other", [{"unet": "cc", "vae": "bb"}, {"vae": "bb"}, {}])
def test_a_run_does_not_go_on_with_another_part(tmp_path: Path, other: dict[str, str]) -> None:
    def writer(parts: dict[str, str], **options: Any) -> RunWriter:
        return RunWriter(
            tmp_path, manifest=MANIFEST | {"model": MANIFEST["model"] | {"parts": parts}}, **options
        )

    before = {"unet": "aa", "vae": "bb"}
    writer(before).close()
    found = other.get("unet")
    with pytest.raises(StoreError, match=rf"weights of unet \(fingerprint aa, this model has {found}\)"):
        writer(other, resume=True)
    writer(before, resume=True).close()


def test_a_run_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    model = MANIFEST["model"] | {"parts": {"unet": "aa"}}
    RunWriter(tmp_path, manifest=MANIFEST | {"model": model}).close()
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["model"]["parts"]  # which were not kept
    path.write_text(json.dumps(manifest))
    RunWriter(tmp_path, manifest=MANIFEST | {"model": model}, resume=True).close()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_become_an_error(tmp_path: Path, bad: float) -> None:
    spoilt = result(0)
    spoilt.scores[1].activations[1, 2] = bad
    with RunWriter(tmp_path, manifest=MANIFEST, words=words, top=4) as writer:
        writer.add(spoilt)
    run = Run(tmp_path)
    assert run.samples["error"][0] == "image: nam: a score or activation is NaN or infinite"
    assert run.samples["text_status"][0] == "ok"
    assert set(run.neurons["modality"]) == {"text"}
    assert run.keys == (("horse", "text", "nam"),)


def test_equal_scores_rank_by_layer_and_unit() -> None:
    scores = torch.zeros(LAYERS, UNITS)
    scores[2, 7] = 1.0
    assert rank_neurons(scores, count=3).tolist() == [[2, 7], [0, 0], [0, 1]]


@pytest.mark.parametrize("count", [0, 1, 5, 119, 120, 500])
@pytest.mark.parametrize("active", [False, True])
def test_neurons_rank_by_score_then_activation_then_place(count: int, active: bool) -> None:
    generator = torch.Generator().manual_seed(count)
    for values in (1, 4, 10_000):
        scores = torch.randint(-values, values, (LAYERS, UNITS), generator=generator) / 7
        activations = torch.randint(0, 3, (LAYERS, UNITS), generator=generator).float()
        found = rank_neurons(scores, count=count, activations=activations if active else None)
        places = [(layer, unit) for layer in range(LAYERS) for unit in range(UNITS)]
        places.sort(key=lambda at: (-scores[at], -activations[at] if active else 0, at))
        assert [tuple(at) for at in found.tolist()] == places[:count]


def test_neurons_without_a_number_rank_first() -> None:
    scores = torch.tensor([[1.0, float("nan"), 3.0], [2.0, float("nan"), 0.0]])
    for count, expected in ((1, [[0, 1]]), (3, [[0, 1], [1, 1], [0, 2]])):
        assert rank_neurons(scores, count=count).tolist() == expected


def test_scores_of_another_model_are_refused(tmp_path: Path) -> None:
    concept = Concept("horse")
    small = Scores(concept, "text", "nam", torch.zeros(1, 2), torch.zeros(1, 2))
    writer = RunWriter(tmp_path, manifest=MANIFEST)
    writer.add(result(0))
    writer.add(replace(result(1), concept=concept, scores=(small,)))
    with pytest.raises(StoreError, match=r"one shape, got \(3, 40\) and \(1, 2\)"):
        writer.flush()
