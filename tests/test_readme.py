"""The Python of the README runs as it stands there, on the model that it names, and gives what is shown."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

README = Path(__file__).parents[1] / "README.md"


def python_of(section: str) -> str:
    """The indented lines of a section."""
    text = README.read_text(encoding="utf-8").split(f"## {section}\n")[1].split("\n## ")[0]
    return textwrap.dedent("\n".join(line for line in text.splitlines() if re.match(r"    |$", line)))


def test_the_python_of_the_readme_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Image.Image] = []
    monkeypatch.setattr(Image.Image, "show", lambda image: shown.append(image))
    names: dict[str, Any] = {}
    python = python_of("In Python")
    exec(compile(python, str(README), "exec"), names)
    said, drawn, top = names["said"], names["drawn"], names["top"]
    assert names["out"].text == re.findall(r"^out\.text +# '(.+)'$", python, re.MULTILINE)[0]
    assert shown == [names["out"].image]
    assert said.scores.shape == drawn.scores.shape
    assert isinstance(top, pd.DataFrame)
    assert list(top) == ["layer", "unit", "score", "activation", "words"]
    shown = re.findall(r"^ +# +(\d+) +(\d+) +(-\d+\.\d+) +(\d+\.\d+) +(\S.*)$", python, re.MULTILINE)
    for (layer, unit, *numbers, words), mine in zip(shown, said.top(3).to_dict("records"), strict=True):
        assert (int(layer), int(unit), words) == (mine["layer"], mine["unit"], mine["words"])
        expected = [mine["score"], mine["activation"]]
        assert list(map(float, numbers)) == pytest.approx(expected, abs=1e-3)
    assert len(names["horses"]) == 100
    assert drawn.relevance.signed
    assert drawn.relevance.values.shape == (8, names["out"].hidden.shape[1])
    assert 0 < drawn.mask.area < 1
    assert len(names["without"]) == 2
