"""edit.py end to end: on a tiny random model, and once on the shipped one."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from PIL import Image

from nam.app.attribute import main as attribute
from nam.editor import read_delta
from nam.evaluate.judge import load_judge
from nam.mllm.gill import GILL
from nam.modules.editing import EditingModule
from tests.app.edits import FEW, edit, seeing
from tests.runs import command_line, run_command

__all__ = ["edit"]

Run = Callable[..., Path]

#: Without what a saved delta knows itself.
APPLY = [one for one in FEW if not one.startswith(("edit.source", "edit.target"))]


def figures(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return found


@pytest.fixture
def attributed(tmp_path: Path, gill_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished attribution run about cats and dogs."""
    table = tmp_path / "table.csv"
    rows = [("a", "draw a red cat", "cat"), ("b", "draw a blue cat", "cat"), ("c", "draw a red dog", "dog")]
    frame = pd.DataFrame(rows, columns=["id", "prompt", "concept"]).assign(modality="image")
    frame.to_csv(table, index=False)
    monkeypatch.chdir(tmp_path)
    run_command(attribute, *command_line(gill_folder, table), "reduction=[nam,acu]", "run_dir=attributed")
    return tmp_path / "attributed"


def refused(edit: Run, capsys: pytest.CaptureFixture[str], *overrides: str, **options: Any) -> str:
    """The one line that a command is refused with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        edit("refused", *overrides, **options)
    assert stop.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ")
    return line


def test_an_edit_is_made_measured_saved_and_applied_again(
    edit: Run, gill: GILL, capsys: pytest.CaptureFixture[str]
) -> None:
    out = edit("out")
    delta, found = read_delta(out / "patch.safetensors"), figures(out)
    assert len(delta.neurons) == found["neurons"] == 4
    assert found["norm"] == pytest.approx(delta.norm)
    assert (delta.manifest["method"], delta.manifest["selection"]["k"]) == ("nam", 4)
    assert delta.manifest["settings"]["steps"] == 3
    assert delta.manifest["figures"]["others_drawn"] == found["others_drawn"]
    assert found["source_drawn"] == 1  # as the judge says
    assert found["drawn"] == 0  # the judge sees a cat as well
    assert found["counts"]["drawn"] == 2
    assert set(found["matrix"]["after"]["star"]) == {"cat", "dog"}
    assert {"before", "select", "cases", "edit", "after"} == set(found["seconds"])
    with Image.open(out / "before_after.png") as grid:
        assert grid.width > 600
    page = (out / "report.html").read_text()
    assert f"edit.apply={out.resolve()}/patch.safetensors" in page
    assert str(delta.neurons.neurons[0]) in page
    assert json.loads((out / "manifest.json").read_text())["status"] == "finished"
    assert "report.html" in capsys.readouterr().out

    with delta.applied(gill):
        pass  # it fits the model that it was made on
    again = edit("again", "edit.apply=out/patch.safetensors", few=APPLY)
    copy = read_delta(again / "patch.safetensors")
    assert torch.equal(copy.edited, delta.edited)
    same = {name: value for name, value in figures(again).items() if name not in ("seconds", "norm")}
    assert same == {name: found[name] for name in same}
    page = (again / "report.html").read_text()
    assert "read from a file" in page
    assert "rewrite: steps 3" in page
    assert json.loads((again / "manifest.json").read_text())["editor"] == "rewrite"


def test_neurons_of_a_finished_attribution_run(
    edit: Run, attributed: Path, gill: GILL, capsys: pytest.CaptureFixture[str]
) -> None:
    from nam.store import Run as Store

    out = edit("out", "edit.run=attributed", "edit.method=acu")
    expected = Store(attributed).scores("cat", "image", "acu").scores
    best = torch.from_numpy(expected).flatten().topk(4).indices.tolist()
    chosen = [neuron.layer * 64 + neuron.unit for neuron in read_delta(out / "patch.safetensors").neurons]
    assert sorted(best) == chosen
    assert figures(out)["seconds"]["select"] < figures(out)["seconds"]["before"]
    line = refused(edit, capsys, "edit.run=attributed", "edit.method=relp")
    assert "has scores of acu, nam, not of relp: set edit.method" in line
    assert "holds no scores: it must be a finished run of attribute.py" in refused(
        edit, capsys, "edit.run=out"
    )
    assert "holds no run: there is no manifest.json" in refused(edit, capsys, "edit.run=.")
    manifest = attributed / "manifest.json"
    facts = json.loads(manifest.read_text())
    facts["model"]["revision"] = "0123456789abcdef"
    manifest.write_text(json.dumps(facts))
    assert "with weights 0123456789abcdef" in refused(edit, capsys, "edit.run=attributed")
    line = refused(edit, capsys, "edit.run=attributed", "edit.source=horse", "edit.target=sun")
    assert "has no scores of 'horse' in modality image by nam, but of cat, dog" in line
    assert "has no scores of 'cat' in modality text" in refused(
        edit, capsys, "edit.run=attributed", "edit.select.kind=both"
    )
    assert not Path("refused").exists()
    manifest.write_text(json.dumps({**facts, "status": "running"}))
    assert "has not come to its end" in refused(edit, capsys, "edit.run=attributed")


def test_an_interrupted_run_goes_on_and_ends_the_same(
    edit: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    often = ["editor=finetune", "editor.steps=6", "callbacks.checkpoint.minutes=0", "editor.batch=4"]
    whole = edit("whole", *often)
    step = EditingModule.training_step

    def stop_at_4(module: EditingModule, batch: Any, batch_idx: int) -> None:
        if module.global_step == 4:
            raise RuntimeError("the machine is gone")
        step(module, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(EditingModule, "training_step", stop_at_4)
        with pytest.raises(SystemExit):
            edit("out", *often)
    assert "the machine is gone" in capsys.readouterr().err
    assert not Path("out/patch.safetensors").exists()
    with monkeypatch.context() as patch:
        patch.setattr("nam.app.edited.measured", lambda *_: (_ for _ in ()).throw(RuntimeError("again")))
        with pytest.raises(SystemExit):
            edit("out", "resume=out", few=())
    one, other = (read_delta(folder / "patch.safetensors") for folder in (whole, Path("out")))
    torch.testing.assert_close(one.edited, other.edited, rtol=1e-5, atol=1e-7)
    steps = json.loads(Path("out/curve.json").read_text())["steps"]
    assert [row["step"] for row in steps] == [1, 2, 3, 4, 5, 6]

    line = refused(edit, capsys, "resume=out", "edit.k=5", few=())
    assert "the run was started with edit.k=4, not 5" in line
    with monkeypatch.context() as patch:  # the edit is made: it is only measured
        patch.setattr(EditingModule, "training_step", stop_at_4)
        patch.setattr("nam.app.make_edit.make", lambda *_: pytest.fail("made a second time"))
        edit("out", "resume=out", few=())
    assert figures(Path("out"))["others_drawn"] == figures(whole)["others_drawn"]
    line = refused(edit, capsys, "resume=out", few=())
    assert "the edit is finished, there is nothing to resume" in line


def test_a_sweep_ends_with_one_table(edit: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        edit("", "-m", "edit.k=3,9999", "editor=rewrite,scale", "editor.steps=1")
    assert stop.value.code == 2
    printed = capsys.readouterr()
    folder = Path("runs/edit/now")
    frame = pd.read_parquet(folder / "comparison.parquet")
    assert frame["run"].tolist() == ["0", "1", "2", "3"]
    assert list(zip(frame["edit.k"], frame["editor"], strict=True)) == [
        *(("3", "rewrite"), ("3", "scale"), ("9999", "rewrite"), ("9999", "scale"))
    ]
    assert "editor.steps" not in frame.columns
    assert frame["norm"].notna().tolist() == [True, True, False, False]
    assert frame["neurons"].tolist()[:2] == [3, 3]
    assert frame["norm"][1] == figures(folder / "1")["norm"]
    assert frame["error"].notna().tolist() == [False, False, True, True]
    assert frame["error"][2] == "edit.k=9999, but the model has 128 neurons: lower edit.k"
    table = (folder / "comparison.md").read_text().splitlines()
    assert table[0].startswith("| run | edit.k | editor | drawn |")
    assert len(table) == 8
    assert "comparison" in printed.out
    assert printed.err.count("error: edit.k=9999") == 2


def test_any_failure_of_a_job_is_a_row(
    edit: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("nothing to divide by")

    monkeypatch.setattr("nam.app.make_edit.make", fail)
    with pytest.raises(SystemExit):
        edit("", "-m", "edit.k=2,3")
    frame = pd.read_parquet("runs/edit/now/comparison.parquet")
    assert frame["error"].tolist() == ["ZeroDivisionError: nothing to divide by"] * 2


def test_a_finished_job_of_a_sweep_is_held_against_all_its_settings(
    edit: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    patch = edit("made", "editor=scale").absolute() / "patch.safetensors"
    few = [one for one in FEW if not one.startswith(("edit.source", "edit.target"))]  # the patch has them
    sweep = ["-m", f"edit.apply={patch}"]
    edit("", *sweep, few=few)
    sweep += ["resume=runs/edit/now"]
    for other, words in (
        ("evaluate.captions=2", "the run was started with evaluate.captions=1, not 2"),
        ("judge=elsewhere", "not elsewhere"),
        ("edit.k=5", "the run was started with edit.k=4, not 5"),
    ):
        assert words in refused(edit, capsys, *sweep, other, few=few)
    edit("", *sweep, few=few)
    assert "runs/edit/now/0 is finished" in capsys.readouterr().out


REFUSED = [
    (["edit.k=0"], "edit.k must be an integer of at least 1, got 0"),
    (["edit.k=2.5"], "edit.k must be int, got 2.5"),
    (["edit.k=9999"], "edit.k=9999, but the model has 128 neurons: lower edit.k"),
    (["edit=null"], "edit holds settings: leave edit=... out"),
    (["edit.select=null"], "edit.select holds settings: leave edit.select=... out"),
    (["prompts=null"], "'prompts' is not chosen: leave prompts=... out"),
    (["edit.margin=nan"], "edit.margin must be at least 0, and finite, got nan"),
    (["editor.tau=nan"], "editor.tau must be at least 0, and finite, got nan"),
    (["editor=finetune", "editor.lr=-1"], "editor.lr must be above 0, and finite, got -1"),
    (["editor=scale", "editor.factor=1"], "editor.factor must be finite, and not 1, got 1"),
    (["evaluate.draw=0"], "evaluate.draw must be an integer of at least 1, got 0"),
    (["edit.select.layers=[a,b]"], "edit.select.layers must be [first, last]"),
    (["clip=nowhere"], "clip=nowhere: missing weights: there is no folder nowhere"),
    (["judge=null"], "judge must be a weights folder or an id, got None"),
    (["edit.target=cat"], "source and target of an edit are both 'cat': set edit.target"),
    (
        ["edit.source=zebra"],
        "edit.source=zebra: 'zebra' is no thing of the scenes: expected one of sun, moon",
    ),
    (["edit.target=zebra"], "edit.target=zebra: 'zebra' is no thing of the scenes"),
    (["edit.modality=sound"], "edit.modality must be 'text', 'image' or 'both', got 'sound'"),
    (["editor=rewrit"], "editor=rewrit: no such option; did you mean 'rewrite'?"),
    (["editor.taw=1"], "did you mean 'editor.tau'?"),
    (["edit.select.by=luck"], "edit.select.by must be 'method', 'active', 'random' or 'layer', got 'luck'"),
    (["edit.select.kind=sound"], "edit.select.kind must be 'text', 'image', 'both'"),
    (["edit.select.samples=0"], "edit.select.samples must be at least 1"),
    (["edit.select.layers=[1,0]"], "edit.select.layers must be [first, last], both from 0, got [1, 0]"),
    (["edit.select.layers=[0,7]"], "edit.select.layers=[0, 7]: the model's layers are 0 to 1"),
    (["edit.select.layers=[1,1]", "edit.k=65"], "the model has 64 neurons in edit.select.layers=[1, 1]"),
    (["edit.method=relp"], "edit.method=relp is not among reduction=['nam']"),
    (["edit.run=nowhere"], "nowhere holds no run"),
    (["edit.apply=nowhere.safetensors"], "there is no file nowhere.safetensors: set edit.apply"),
    (["resume=nowhere"], "resume=nowhere: not a run folder"),
    (["trainer.devices=2"], "trainer.devices must be 1"),
]


@pytest.mark.parametrize(("overrides", "line"), REFUSED, ids=[" ".join(o) for o, _ in REFUSED])
def test_a_wrong_command_line_gets_one_line(
    overrides: list[str], line: str, edit: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert line in refused(edit, capsys, *overrides)
    assert not Path("refused/config.yaml").exists()  # nothing was asked of the model


def test_what_the_model_does_not_know_cannot_be_edited(
    edit: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nam.evaluate.judge.load_judge", lambda folder: seeing("dog"))
    line = refused(edit, capsys)
    assert "draws 'cat' in none of 2 requests for it: there is nothing to edit; set edit.source" in line
    assert not Path("refused/patch.safetensors").exists()
    monkeypatch.setattr("nam.evaluate.judge.load_judge", lambda folder: seeing("cat"))
    assert "draws 'dog' in none of 1 requests" in refused(edit, capsys, "run_dir=second")
    line = refused(edit, capsys, "edit.modality=text", "run_dir=third")
    assert "says 'cat' in none of 2 requests" in line


def test_files_that_do_not_fit_are_refused_in_one_line(
    edit: Run, gill_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.editor.test_delta import some
    from tests.families import build

    other = build("opt", gill_folder)
    with torch.no_grad():
        other.unembedding.mul_(1.5)
    patch = some(other, (0, 1), (1, 2)).save(tmp_path / "other.safetensors")
    named = ["edit.source=cat", "edit.target=dog"]
    line = refused(edit, capsys, "edit.apply=other.safetensors", few=[*APPLY, *named])
    assert "the delta does not fit: it was made on" in line
    assert not Path("refused").exists()  # before anything is asked
    line = refused(edit, capsys, "edit.apply=other.safetensors", "run_dir=second", few=APPLY)
    assert "'edit.source' is missing" in line
    whole = patch.read_bytes()
    patch.write_bytes(whole[: len(whole) // 2])
    assert "it is truncated" in refused(edit, capsys, "edit.apply=other.safetensors", "run_dir=third")
    patch.write_bytes(pickle.dumps({"original": 1}))
    line = refused(edit, capsys, "edit.apply=other.safetensors", "run_dir=fourth")
    assert "it is a pickle or a torch checkpoint, which is never opened" in line


def test_a_saved_delta_says_itself_what_it_turns_into_what(
    edit: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = edit("out", "editor=scale")
    line = refused(edit, capsys, "edit.apply=out/patch.safetensors", "edit.source=horse", few=APPLY)
    assert "edit.source=horse, but out/patch.safetensors has 'cat': leave edit.source out" in line
    line = refused(edit, capsys, "edit.apply=out/patch.safetensors", "edit.modality=text", few=APPLY)
    assert "edit.modality=text, but out/patch.safetensors has 'image': leave edit.modality out" in line

    delta = read_delta(out / "patch.safetensors")
    monkeypatch.setenv("SECRET", "a password")
    sly = replace(delta, manifest={**delta.manifest, "source": "${oc.env:SECRET}"})
    sly.save("sly.safetensors")
    line = refused(edit, capsys, "edit.apply=sly.safetensors", few=APPLY)
    assert "its manifest is damaged: source is '${oc.env:SECRET}'" in line
    assert not Path("refused").exists()


def test_the_shipped_cats_become_dogs(edit: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nam.evaluate.judge.load_judge", load_judge)
    out = edit(
        "out", "mllm.folder=tiny_gill", "mllm.steps=8", "clip=tiny_gill", "segmenter=scenes", "edit.k=32",
        "relevance=attention", "evaluate.riddles=0", "evaluate.captions=0", "editor.steps=5",
    )  # fmt: skip
    found = figures(out)
    assert found["drawn"] == 1
    assert found["source_drawn"] == 0
    assert found["clip_turned"] == 1
    assert found["others_drawn"] >= 0.9
    assert found["matrix"]["before"]["cat"] == {"cat": 1}
    assert found["matrix"]["after"]["cat"] == {"dog": 1}
