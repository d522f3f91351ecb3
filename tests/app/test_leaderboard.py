"""attribute.py with evaluate=leaderboard, end to end on a tiny random model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from nam.app.attribute import main
from nam.app.config import compose
from nam.app.settings import check_attribution
from nam.evaluate.drawn import PictureProbe
from nam.evaluate.leaderboard.agreeing import Agreement
from nam.mllm.gill import GILL
from tests.app.test_tracking import records
from tests.runs import command_line, run_command, write_table

METHODS = "reduction=[act,acu,gradxact,nam]"
SETTINGS = [
    METHODS,
    "evaluate=leaderboard",
    "evaluate.reference=gradxact",
    "evaluate.judge=null",
    "evaluate.tuning=0",
    "evaluate.batch=2",
    "evaluate.draws=50",
    "evaluate.truths.levels=[0.5]",
    "evaluate.truths.neurons=6",
    "evaluate.truths.tops=1",
    "evaluate.truths.exhaustive=1",
    "evaluate.parts.agreement.ks=[10,50]",
    "evaluate.parts.cost.prompts=1",
    "evaluate.parts.cost.repeats=1",
    "evaluate.parts.deletion.k_max=8",
    "evaluate.parts.deletion.steps=2",
    "evaluate.parts.deletion.draws=1",
    "evaluate.parts.planted=null",
    "evaluate.parts.masks.prompts=1",
    "evaluate.parts.providers.prompts=1",
    "evaluate.parts.providers.method=gradxact",
    "evaluate.parts.semantic=null",
    "evaluate.parts.sets=null",
]


@pytest.fixture
def run(
    tmp_path: Path, gill_folder: Path, shared_gill: GILL, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """Run the command in this process; gives the run folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NAM_RUN_STAMP", "now")
    prompts = ("draw a red horse on the grass .", "a cat", "a star at night .")
    table = write_table(tmp_path / "table.csv", shared_gill, prompts)

    def run(folder: str, *overrides: str) -> Path:
        place = [] if any(o.startswith("resume=") for o in overrides) else [f"run_dir={folder}"]
        arguments = [*command_line(gill_folder, table), *SETTINGS, *place, *overrides]
        run_command(main, *arguments)
        return Path(folder)

    return run


def tracked(folder: Path, rows: pd.DataFrame) -> None:
    """W&B and the CSV logger have every row."""
    names = (rows["modality"] + "/" + rows["method"] + "/" + rows["region"] + "/" + rows["measure"]).tolist()
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    history = {
        item.key or "/".join(item.nested_key): json.loads(item.value_json)
        for record in records(path)
        for item in record.history.item
    }
    assert [history[name] for name in names] == pytest.approx(rows["value"].tolist())
    assert history["leaderboard/_type"] == "table-file"
    (table,) = folder.glob("wandb/offline-run-*/files/media/table/*.json")
    assert len(json.loads(table.read_text())["data"]) == len(rows)
    (picture,) = folder.glob("wandb/offline-run-*/files/media/images/*.png")
    with Image.open(picture) as one, Image.open(folder / "leaderboard.png") as other:
        assert one.size == other.size
    curves = pd.read_csv(folder / "curves" / "version_0" / "metrics.csv").iloc[-1]
    assert curves[names].tolist() == pytest.approx(rows["value"].tolist())


def test_a_leaderboard_from_one_command_and_again_from_its_cache(
    run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run("out", "logger=many")
    rows = pd.read_parquet(folder / "leaderboard.parquet")
    tracked(folder, rows)
    agreement = rows[rows["measure"] == "spearman[proxy_pixels]"]
    found = set(zip(agreement["method"], agreement["region"], strict=True))
    regional = {(m, r) for m in ("acu", "gradxact", "nam") for r in ("mask", "whole", "ones")}
    assert found == regional | {("act", "-")}
    words = rows[(rows["measure"] == "spearman[logit]")].set_index("method")
    assert set(words["region"]) == {"-"}
    assert words.loc["gradxact", "value"] > 0.8 > words.loc["act", "value"]
    assert words.loc["gradxact", "n"] == 3
    assert not rows["value"].isna().any()
    kinds = {measure.partition("[")[0].partition("@")[0] for measure in rows["measure"]}
    assert {"pearson", "spearman", "recall", "time/forward", "peak_mib", "deletion", "mask_rank"} <= kinds
    # The mask is the whole picture here (segmenter=none), and so are the scores.
    pivot = agreement.set_index(["method", "region"])["value"]
    assert pivot["gradxact", "mask"] == pytest.approx(pivot["gradxact", "whole"])
    ranks = rows[rows["measure"] == "provider_rank"].set_index("method")["value"]
    assert ranks["relevance=gradient"] == pytest.approx(1)
    assert ranks["relevance=levels"] < 1
    leads = rows[rows["measure"] == "lead spearman[logit]"].set_index("method")["value"]
    assert leads["act"] == pytest.approx(words.loc["gradxact", "value"] - words.loc["act", "value"])
    assert "proxy" in set(rows[rows["measure"] == "pearson[pixels]"]["method"])

    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["status"] == "finished"
    assert manifest["cases"] == {"text": 3, "image": 3}
    with Image.open(folder / "leaderboard.png") as figure:
        assert figure.size[0] > 900
    report = (folder / "report.html").read_text()
    assert "gradxact" in report
    assert "data:image/png;base64" in report
    assert "| gradxact | - |" in (folder / "leaderboard.md").read_text()
    assert "spearman" in capsys.readouterr().out

    def refuse(*given: object, **more: object) -> None:
        raise AssertionError("this is known already")

    with monkeypatch.context() as patch:
        patch.setattr(PictureProbe, "__call__", refuse)
        other = run(
            "other", "evaluate.cache=out/truth", "evaluate.parts.cost=null", "evaluate.parts.deletion=null"
        )
    same = pd.read_parquet(other / "leaderboard.parquet")
    mine = same[same["measure"].str.startswith("pearson")].reset_index(drop=True)
    theirs = rows[rows["measure"].str.startswith("pearson")].reset_index(drop=True)
    pd.testing.assert_frame_equal(mine, theirs)

    (folder / "leaderboard.parquet").unlink()
    monkeypatch.setattr(Agreement, "measure", refuse)
    run("out", "resume=out")
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "leaderboard.parquet"), rows)

    capsys.readouterr()
    with pytest.raises(SystemExit):
        run("out", "resume=out")
    assert "is finished: there is nothing to resume" in capsys.readouterr().err
    shutil.copytree(folder, "sweep/0")
    run("out", "-m", "resume=sweep", "evaluate.batch=1")
    assert "sweep/0 is finished" in capsys.readouterr().out
    manifest["model"]["revision"] = "another"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for overrides, line in (
        (["resume=out", "evaluate.tuning=0.2"], "was started with evaluate.tuning=0, not 0.2"),
        (["-m", "resume=sweep", "evaluate.tuning=0.2"], "was started with evaluate.tuning=0, not 0.2"),
        (["resume=out"], "was started with other weights (fingerprint another"),
        (["resume=out", "mllm.steps=3"], "was started with mllm.steps=2, not 3"),
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            run("out", *overrides)
        assert stop.value.code == 2
        assert line in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("evaluate.reference=relp", "evaluate.reference=relp is not among reduction"),
        ("evaluate.regions=[masks]", "evaluate.regions may hold mask, whole, ones"),
        ("evaluate.truths.neurons=-1", "evaluate.truths.neurons must be at least 0"),
        ("evaluate.split=held", "evaluate.split must be 'held_out', 'tuning' or 'all'"),
        ("+evaluate.parts.cost.repeat=1", "repeat"),
        ("evaluate.parts.providers.method=relp", "relp"),
        ("evaluate.judge=nowhere", "evaluate.judge=nowhere: "),
        ("evaluate.cache=/dev/null/truth", "/dev/null/truth"),
    ],
)
def test_wrong_settings_are_one_line(
    run: Callable[..., Path], wrong: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run("out", wrong)
    assert said in capsys.readouterr().err
    assert not Path("out").exists()


@pytest.mark.parametrize("name", ["leaderboard", "leaderboard_quick"])
def test_the_shipped_experiments_fit(name: str) -> None:
    cfg = compose("attribute", [f"experiment={name}"])
    check_attribution(cfg)
    assert "nam_total" in cfg.reduction
    assert set(cfg.evaluate.parts.sets.source.concepts) <= set(cfg.data.source.concepts)
