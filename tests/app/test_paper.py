"""attribute.py experiment=paper_...: configurations that hold, and a run from end to end on a tiny model."""

from __future__ import annotations

import json
import shlex
from itertools import takewhile
from pathlib import Path

import pandas as pd
import pytest

from nam.app.attribute import main
from nam.app.build import build
from nam.app.config import compose
from nam.app.settings import check_attribution
from nam.evaluate.leaderboard.published import PaperRun
from nam.folders import configs_folder
from nam.mllm.gill import GILL
from tests.runs import command_line, run_command, write_table

RUNS = ("paper_distribution", "paper_table2", "paper_invariance", "paper_specificity", "paper_table3")


@pytest.mark.parametrize("name", RUNS)
def test_an_experiment_is_checked_and_says_its_command_and_hardware(name: str) -> None:
    cfg = compose("attribute", [f"experiment={name}", "run_dir=somewhere"])
    check_attribution(cfg)
    settings = build(cfg.evaluate)
    assert isinstance(settings, PaperRun)
    assert settings.reference in cfg.reduction
    assert {method for table in settings.tables for method in table.values} <= set(cfg.reduction)
    header = [
        line
        for line in (configs_folder() / "experiment" / f"{name}.yaml").read_text().splitlines()
        if line[:1] == "#"
    ]
    assert header[1] == f"# python attribute.py experiment={name}"
    assert "tiny_gill" in " ".join(header)
    assert "GB" in " ".join(header)


@pytest.mark.parametrize("name", RUNS)
def test_the_command_for_the_real_model_fits(name: str) -> None:
    """As it stands in the experiment's header, without anything being loaded."""
    lines = (configs_folder() / "experiment" / f"{name}.yaml").read_text().splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("#   python"))
    words = " ".join(line.lstrip("# ") for line in takewhile(lambda line: line[:1] == "#", lines[start:]))
    python, script, *overrides = shlex.split(words)
    assert (python, script, overrides[0]) == ("python", "attribute.py", f"experiment={name}")
    cfg = compose("attribute", [*overrides, "run_dir=somewhere"])
    check_attribution(cfg)
    assert (cfg.mllm.device, cfg.segmenter.device) == ("cuda", "cuda")
    assert cfg.segmenter.id == "facebook/sam3"


def test_the_paper_s_figures_are_those_of_its_tables() -> None:
    """By sums, worked out from the paper's pages: of table 2 the NAM and AcT lines, of table 3 every line."""
    text, image = build(compose("attribute", ["experiment=paper_table2"]).evaluate).tables
    assert sum(text.values["nam"]) == pytest.approx(2.644)
    assert sum(image.values["nam"]) == pytest.approx(2.556)
    assert sum(text.values["act"]) == pytest.approx(2.566)
    assert sum(image.values["act"]) == pytest.approx(2.475)
    assert list(text.columns) == ["CLIP in", "CLIP out", "BERT", "Mover", "BLEURT"]
    (norms,) = build(compose("attribute", ["experiment=paper_table3"]).evaluate).tables
    sums = {method: round(sum(values), 3) for method, values in norms.values.items()}
    expected = {
        "ce": 1.82,
        "ig": 1.525,
        "grad": 1.286,
        "gradxact": 1.224,
        "act": 0.977,
        "acu": 0.974,
        "nam": 0.921,
    }
    assert sums == expected


def test_a_run_ends_with_the_paper_s_figures_beside_ours(
    tmp_path: Path,
    gill_folder: Path,
    shared_gill: GILL,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NAM_RUN_STAMP", "now")
    table = write_table(
        tmp_path / "table.csv", shared_gill, ("draw a red horse on the grass .", "a cat", "a star")
    )
    settings = [
        "experiment=paper_invariance",
        "~reduction.ce",
        "~reduction.ig",
        "reduction=[act,acu,nam]",
        "+evaluate.parts.layers={_target_: nam.evaluate.leaderboard.layers.Layers, ks: [2, 5]}",
        "evaluate.parts.sets.k=5",
        "evaluate.leads.0.over=[act,acu]",
        "evaluate.leads.0.measure=depth@5",
        "evaluate.draws=20",
        "run_dir=out",
    ]
    given = [*command_line(gill_folder, table), *settings]
    run_command(main, *given)
    folder = tmp_path / "out"
    rows = pd.read_parquet(folder / "leaderboard.parquet")
    layers = rows[rows["measure"].str.startswith("layer@5[") & (rows["method"] == "nam")]
    assert layers[layers["modality"] == "text"]["value"].sum() == pytest.approx(5)
    assert layers[layers["modality"] == "image"]["value"].sum() == pytest.approx(5)
    assert {"depth@5", "both@5"} <= set(rows["measure"])
    page = (folder / "report.html").read_text()
    assert "+16.83 points" in page
    assert page.count("data:image/png;base64,") == 3  # a figure of the layers for each method
    assert "Are a concept" in page
    words = (folder / "paper.md").read_text()
    assert "| share of the top in all ten | +16.83 points |" in words
    assert "16.83" in capsys.readouterr().out
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["status"] == "finished"
    assert manifest["cases"]["image"] >= 1
    assert not (folder / "leaderboard.md").exists()
