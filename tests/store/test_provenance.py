"""What a manifest says."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch

import nam
from nam.store import SCHEMA_VERSION, peak_memory, provenance, run_manifest


def test_a_manifest_is_json_and_complete() -> None:
    made = run_manifest(model="m", revision="r", seed=3, layers=2, units=5, settings={"method": "nam"})
    assert json.loads(json.dumps(made)) == made
    assert made["model"] == {"name": "m", "revision": "r", "layers": 2, "units": 5, "parts": {}}
    assert (made["schema_version"], made["seed"], made["method"]) == (SCHEMA_VERSION, 3, "nam")
    assert made["versions"]["torch"] == torch.__version__
    assert made["started"].endswith("+00:00")


def test_the_commit_is_that_of_the_packages_own_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nam, "__file__", str(tmp_path / "nam" / "__init__.py"))
    assert provenance.git_commit() is None
    (tmp_path / "file").write_text("one")
    author = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    for command in (("init", "-q"), ("add", "."), (*author, "commit", "-qm", "one")):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    clean = provenance.git_commit()
    assert clean is not None
    assert len(clean) == 40
    (tmp_path / "file").write_text("two")
    assert provenance.git_commit() == f"{clean}+"


def test_peak_memory_is_in_bytes() -> None:
    assert 50e6 < peak_memory()["host"] < 1e12
