"""The Python of the README runs as it stands there, on the model that it names."""

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
    exec(compile(python_of("In Python"), str(README), "exec"), names)
    said, drawn, top = names["said"], names["drawn"], names["top"]
    assert "horse" in names["out"].text
    assert shown == [names["out"].image]
    assert said.scores.shape == drawn.scores.shape
    assert isinstance(top, pd.DataFrame)
    assert list(top) == ["layer", "unit", "score", "activation", "words"]
    assert len(names["horses"]) == 100
    assert 0 < drawn.mask.area < 1
    assert len(names["without"]) == 2
