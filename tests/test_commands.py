"""The command lines of the documents, held against the configurations."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from nam.app.config import compose

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

#: What launches the command, and Hydra's own.
IGNORED = re.compile(r"-|hydra[./]")


def commands(page: Path) -> list[tuple[str, list[str]]]:
    """Command and overrides of every indented line of a page that runs attribute.py, edit.py or train.py."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    found = []
    for line in re.findall(r"^    .*?\b((?:attribute|edit|train)\.py .*)$", text, re.MULTILINE):
        name, *words = shlex.split(re.sub(r"<[^>]*>|\$\w+", "x", line), comments=True)
        given = [word for word in words if "=" in word and not word.endswith("=...")]
        mine = [word for word in given if not IGNORED.match(word)]
        found.append((name.removesuffix(".py"), mine))
    return found


def one_job(overrides: list[str]) -> list[str]:
    """The overrides of the first job of a sweep."""
    parser, first = OverridesParser.create(), []
    for override in parser.parse_overrides(overrides):
        if override.is_sweep_override():
            first.append(f"{override.get_key_element()}={next(override.sweep_string_iterator())}")
        else:
            first.append(str(override.input_line))
    return first


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.stem)
def test_every_command_of_the_documents_is_understood(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAM_RUN_STAMP", "now")
    for name, overrides in commands(page):
        cfg = compose(name, one_job(overrides))
        assert {"run_dir", "resume"} <= set(cfg)


def test_commands_of_several_lines_are_found() -> None:
    several = [overrides for _, overrides in commands(ROOT / "docs/scale.md")]
    assert ["run_dir=/shared/runs/big", "trainer=ddp", "trainer.devices=8", "trainer.num_nodes=2"] in several
