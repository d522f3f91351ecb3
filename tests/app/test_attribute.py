"""attribute.py end to end on a tiny random model."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

from nam.app.attribute import Answer, draw_grid, main


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gill_folder: Path) -> Path:
    """The folder where a run will be, with the command line for it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NAM_RUN_STAMP", "now")
    prompts = "prompts=['draw a red horse.','what is a boat?']"
    monkeypatch.setattr("sys.argv", ["attribute.py", f"mllm.folder={gill_folder}", prompts, "scenes=1"])
    GlobalHydra.instance().clear()
    return tmp_path / "runs" / "attribute" / "now"


def test_a_run_leaves_a_table_and_a_grid(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main()
    table = pd.read_csv(run / "samples.csv")
    assert list(table["prompt"]) == ["draw a red horse.", "what is a boat?", "a picture of"]
    assert list(table["picture_in"]) == [False, False, True]
    with Image.open(run / "samples.png") as grid:
        assert grid.size == (4 * 192, 192 + 40)
        assert len(grid.getcolors(1 << 20) or ()) > 100  # the rendered scene is on it
    assert "samples.png" in capsys.readouterr().out.replace("\n", "")


def test_a_wrong_model_setting_is_refused(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["attribute.py", "mllm.folder=no/such/folder"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "no/such/folder" in error
    assert error.count("\n") == 1


def test_a_tile_holds_what_was_asked_beside_what_was_drawn() -> None:
    red, blue = Image.new("RGB", (64, 64), "red"), Image.new("RGB", (64, 64), "blue")
    words = "a very long prompt that does not fit into the width of one tile"
    grid = draw_grid([Answer(prompt=words, asked=red, text="yes", image=blue)])
    assert grid.getpixel((48, 48)) == (255, 0, 0)
    assert grid.getpixel((144, 48)) == (0, 0, 255)
    below = grid.crop((0, 192, 192, 232)).convert("L").point(lambda level: 255 * (level < 200)).getbbox()
    assert below is not None
    assert below[2] <= 190  # cut to the tile
