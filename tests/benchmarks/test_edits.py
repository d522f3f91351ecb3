"""The benchmark of edits: figures against hand-computed ones, rows that are kept, and a real row."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.editing import plot, report
from benchmarks.editing.figures import mean_over, measure
from benchmarks.editing.lab import Lab
from benchmarks.editing.measure import kept_rows, row_file, row_of
from benchmarks.editing.plan import CHAIN, Job, plan
from benchmarks.edits import main
from benchmarks.quality.rows import Measure, Spec
from nam.data.edits import ScenePairs
from nam.editor.reach import reach
from nam.evaluate.editing import EditPrompts
from nam.evaluate.growth import crossing, within
from nam.folders import weights_folder
from nam.mllm.gill import GILL
from nam.options import option
from nam.world.scene import NOUNS
from tests.editor.problems import NEURONS, problem
from tests.evaluate.tiny_judge import write_judge, write_segmenter

ABOUT = {
    "command": "python -m benchmarks.edits",
    "commit": "abc",
    "machine": "a machine",
    "versions": {"torch": "2"},
    "seconds": 1,
}


def row(job: Job, **given: Any) -> dict[str, Any]:
    """A row as it is kept, every share 3 of 4."""
    names = ("drawn", "said", "caption_said", "colour_kept", "others_drawn", "others_text", "others_caption")
    return {
        **json.loads(json.dumps(vars(job))),
        "observed": {name: [1.0, 1.0, 0.0, 1.0] for name in names},
        "drift": {"others_kl": 0.5, "others_top1": 0.96},
        "norm": 4.0,
        "seconds": 2.0,
        **given,
    }


def test_the_norm_of_equal_change_is_where_the_evidence_crosses_zero() -> None:
    assert crossing([0, 1, 2, 4], np.array([-4.0, -2.0, -1.0, 3.0])) == pytest.approx(2.5)
    assert crossing([0, 1], np.array([-4.0, 4.0])) == pytest.approx(0.5)
    assert crossing([0, 1, 2], np.array([-4.0, -2.0, -1.0])) is None


@pytest.mark.parametrize("budget", [0.5, 4.0])
def test_a_growing_edit_keeps_to_its_budget_and_comes_closer_with_more(gill: GILL, budget: float) -> None:
    asked = problem(gill, size=2.0)
    nothing = torch.zeros(len(NEURONS), 32)
    change = within(asked, NEURONS, nothing, budget)
    assert 0.8 * budget < float(change.norm()) <= budget * (1 + 1e-5)
    assert float(reach(asked, NEURONS, change).error(0)) < float(reach(asked, NEURONS, nothing).error(0))
    more = within(asked, NEURONS, change, 2 * budget)
    assert float(reach(asked, NEURONS, more).error(0)) < float(reach(asked, NEURONS, change).error(0))


def test_shares_are_pooled_over_edits_and_means_are_bootstrapped() -> None:
    job = plan()[0]
    rows = [row(job), row(job, norm=8.0), {**vars(job), "problem": "no such thing", "seconds": 0}]
    share = measure(rows, Spec("drawn", ""))
    assert isinstance(share, Measure)
    assert (share.value, share.n) == (75.0, 8)
    assert share.low == pytest.approx(40.93, abs=0.01)  # Wilson's of 6 of 8
    assert share.high == pytest.approx(92.85, abs=0.01)
    norm = measure(rows, Spec("norm", "", unit=""))
    assert isinstance(norm, Measure)
    assert (norm.value, norm.n) == (6.0, 2)
    assert measure(rows, Spec("place_kept", "")) is None
    rng = np.random.default_rng(5)
    values = rng.normal(3, 1, size=400)
    found = mean_over(values)
    assert isinstance(found, Measure)
    # The bootstrap of many values is the normal approximation's.
    half = 1.96 * values.std(ddof=1) / 20
    assert found.low == pytest.approx(values.mean() - half, abs=0.02)
    assert found.high == pytest.approx(values.mean() + half, abs=0.02)


def test_every_row_has_a_file_of_its_own() -> None:
    jobs = plan()
    files = {job.file({"samples": 2}) for job in jobs}
    assert len(files) == len(jobs)
    assert not files & {job.file({"samples": 3}) for job in jobs}
    assert sorted(CHAIN) == sorted(NOUNS)
    largest = max(jobs, key=lambda job: len(job.pairs))
    assert len({source for source, _ in largest.pairs}) == len(largest.pairs) == 12


@pytest.mark.parametrize(
    ("group", "changed"),
    [("editor", {"lr": 0.01}), ("reduction", {"gate": "token"}), ("relevance", {"last_steps": 1})],
)
def test_a_row_is_measured_again_where_what_made_it_changed(
    group: str, changed: dict[str, Any], gill_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(asked: str, name: str) -> Any:
        return option(asked, name, **(changed if asked == group else {}))

    job = Job(section="editors", pairs=(("cat", "dog"),), modality="image", editor="finetune", kind="image")
    folder = tmp_path / "tiny_random"
    shutil.copytree(gill_folder, folder)
    write_segmenter(folder)
    lab = Lab(folder=folder, cache=tmp_path, methods=("nam",))
    before = row_file(lab, job)
    assert row_file(replace(lab), job) == before
    monkeypatch.setattr("benchmarks.editing.lab.option", other)
    monkeypatch.setattr("benchmarks.editing.measure.option", other)
    assert row_file(replace(lab), job) != before


def test_targets_are_marked_met_or_missed(tmp_path: Path) -> None:
    jobs = [job for job in plan() if job.editor == "finetune" and job.section == "editors"]
    rows = [row(job) for job in jobs]
    for each in rows:
        each["observed"]["others_text"] = [1.0] * 40
    growth = [job for job in plan() if job.section == "growth"]
    rows += [row(job, norms=[1.0 + i, None]) for i, job in enumerate(growth)]
    held = report.write(rows, ABOUT, tmp_path, planned=100)
    verdicts = {(each.section, each.spec.name): each.verdict for each in held}
    assert verdicts["Edits of pictures", "target drawn"] == "miss"
    assert verdicts["Edits of pictures", "others' words kept"] == "pass"
    assert verdicts["Edits of words", "others' top-1 kept"] == "pass"
    text = (tmp_path / "editing.md").read_text()
    assert "| target drawn | 75.0 % |" in text
    assert text.count("| missed |") == sum(each.verdict == "miss" for each in held) > 0
    assert f"{len(rows)} of 100 rows" in text
    written = json.loads((tmp_path / "editing.json").read_text())
    assert [each["verdict"] for each in written["targets"]] == [each.verdict for each in held]
    turned = next(t for t in written["tables"] if t["section"] == "growth" and t["row"] == "nam")
    assert turned["figures"]["turned"]["value"] == 50.0
    assert turned["figures"]["growth"]["value"] == pytest.approx(2.0)
    plot.draw(rows, tmp_path / "editing.png")
    with Image.open(tmp_path / "editing.png") as figure:
        assert np.asarray(figure.convert("L")).std() > 10


def test_edits_that_cannot_be_made_are_rows_that_say_why(gill_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tiny_random"
    shutil.copytree(gill_folder, folder)
    write_segmenter(write_judge(folder))
    out = tmp_path / "out"
    given = ["--weights", str(folder), "--quick", "--only", "several", "--out", str(out)]
    rows = main(given)
    assert [len(each["pairs"]) for each in rows] == [1, 2, 2]
    for each in rows:
        assert any(f"no scores of {source!r}" in each["problem"] for source, _ in each["pairs"])
    files = {path: path.stat().st_mtime_ns for path in (out / "rows").glob("*.json")}
    assert len(files) == 3
    next(iter(files)).unlink()
    assert main([*given, "--minutes", "0"]) != rows  # no time: what is kept is reported
    assert "2 of 3 rows" in (out / "editing.md").read_text()
    assert main(given) != []
    again = {path: path.stat().st_mtime_ns for path in (out / "rows").glob("*.json")}
    assert sum(again[path] == files[path] for path in files) == 2
    path = next(iter(again))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"commit": "an earlier one"}))
    main(given)
    assert "an earlier one" in (out / "editing.md").read_text().partition(" on ")[0]


@pytest.mark.parametrize(
    ("given", "said"),
    [(["--only", "editor"], "did you mean 'editors'?"), (["--weights", "/nowhere"], "there is no folder")],
)
def test_wrong_options_end_with_one_line(
    given: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([*given, "--out", str(tmp_path)])
    assert said in " ".join(capsys.readouterr().out.split())


def test_a_row_of_the_shipped_model(tmp_path: Path) -> None:
    """Two steps of one edit: measured, kept, and the model is as it was."""
    lab = Lab(
        folder=weights_folder("tiny_gill"),
        cache=tmp_path,
        methods=("nam",),
        concepts=("cat", "boat"),
        samples=1,
        steps=2,
        prompts=ScenePairs(draw=2, caption=1, others=1, others_caption=0, others_riddle=0),
        held_out=EditPrompts(draw=1, seeds=1, riddles=1, captions=1, others=0),
    )
    assert isinstance(lab.mllm, GILL)
    model = lab.mllm.language_model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    jobs = [
        Job(section="editors", pairs=(("cat", "dog"),), modality="image", editor="finetune", kind="image")
    ]
    assert kept_rows(lab, jobs) == []
    found = row_of(lab, jobs[0])
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert found["steps"] == 2
    assert found["neurons"] == sum(found["layers"].values()) == 32
    assert found["observed"]["drawn_before"] == [1.0]
    assert len(found["observed"]["clip_turned"]) == 1
    assert 0 < found["drift"]["caption_p_source"] <= 1
    assert json.loads(json.dumps(found)) == kept_rows(lab, jobs)[0]
    read = Lab(folder=lab.folder, cache=tmp_path, methods=("nam",), concepts=("cat", "boat"), samples=1)
    for key, (scores, _) in lab.means["nam"].items():
        assert torch.equal(read.means["nam"][key][0], scores)
