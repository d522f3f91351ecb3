"""What is installed is what the repository holds."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import yaml

import nam
from nam.folders import configs_folder

ROOT = Path(nam.__file__).parents[1]


def _setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def test_setup_lists_every_package() -> None:
    listed = set(_setup()["options"]["packages"].split())
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "nam").rglob("__init__.py")}
    assert listed == {".".join(folder.parts) for folder in folders} | {"nam.configs"}


def test_every_dependency_is_pinned_and_nothing_else_is_said() -> None:
    options = _setup()
    wanted = options["options"]["install_requires"] + options["options.extras_require"]["dev"]
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line[0] != "#"]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.]+", line) for line in lines)
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in lines}
    names = {re.split(r"[<>=]", line)[0].lower() for line in wanted.split("\n") if line}
    assert names <= pinned
    assert "torch==2.13.0" in lines
    assert not any(name.startswith(("nvidia", "triton", "torchvision")) for name in pinned)


def test_entry_points_are_commands() -> None:
    found = {
        entry.name: entry for entry in entry_points(group="console_scripts") if entry.name.startswith("nam-")
    }
    listed = _setup()["options.entry_points"]["console_scripts"].split("\n")
    assert set(found) == {line.partition(" =")[0] for line in listed if line}
    assert all(callable(entry.load()) for entry in found.values())


def test_importing_nam_is_light() -> None:
    heavy = "torch transformers diffusers wandb cv2 lightning hydra pandas matplotlib"
    code = f"import sys, nam; print([name for name in {heavy.split()} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_configuration_is_readable_yaml() -> None:
    files = list(configs_folder().rglob("*.yaml"))
    assert len(files) > 20
    for file in files:
        assert isinstance(yaml.safe_load(file.read_text()), dict | None), file
