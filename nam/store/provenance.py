"""manifest.json: what produced a run, enough to repeat it and to judge its numbers."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import nam
from nam.store.files import StoreError, read_json
from nam.store.schema import MANIFEST_FILE, SCHEMA_VERSION

_PACKAGES = ("torch", "lightning", "transformers", "diffusers", "numpy", "opencv-python-headless", "pyarrow")


def run_manifest(
    *,
    model: str,
    revision: str | None = None,
    parts: Mapping[str, str] | None = None,
    seed: int,
    layers: int,
    units: int,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What is known when a run starts.

    Args:
        model: The model's name, hub id or folder.
        revision: Its revision, or a fingerprint of the language model's weights.
        parts: Digests of all else that decides the results, by name.
        seed: The run's seed.
        layers: Number of layers L.
        units: Neurons of one layer d.
        settings: More entries, plain JSON values: methods, segmenter, relevance.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "status": "running",
        "model": {
            "name": model,
            "revision": revision,
            "layers": layers,
            "units": units,
            "parts": dict(parts or {}),
        },
        "seed": seed,
        "started": now(),
        "versions": versions(),
        "git_commit": git_commit(),
        "machine": machine(),
        **(settings or {}),
    }


def read_manifest(folder: Path) -> dict[str, Any]:
    """manifest.json of a run folder.

    Raises:
        StoreError: it is missing or damaged, of a newer schema, or holds something else than `run_manifest`
            makes where other parts of this package rely on it.
    """
    path = folder / MANIFEST_FILE
    found = read_json(path)
    schema = found.get("schema_version")
    if type(schema) is not int or not 1 <= schema <= SCHEMA_VERSION:
        raise StoreError(f"{folder} has schema {schema!r}, this version of nam reads 1 to {SCHEMA_VERSION}")
    model, resumed = found.get("model", {}), found.get("resumed", [])
    if not isinstance(model, dict) or not isinstance(model.get("parts", {}), dict):
        raise StoreError(f"{path} is damaged: 'model' should hold the model's name, sizes and parts")
    if not isinstance(resumed, list):
        raise StoreError(f"{path} is damaged: 'resumed' should be a list of times, got {resumed!r}")
    return found


def refuse_other_weights(folder: Path, started: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
    """Hold the weights of a resumed run against those that it was started with.

    Args:
        folder: The run folder.
        started: The manifest that it holds.
        manifest: The manifest of the run that is to go on in it.

    Raises:
        StoreError: the fingerprints differ.
    """
    before, here = (one.get("model", {}) for one in (started, manifest))
    pairs = {"": (before.get("revision"), here.get("revision"))}
    if "parts" in before:
        names = sorted({*before["parts"], *here.get("parts", {})})
        pairs |= {f" of {n}": (before["parts"].get(n), here.get("parts", {}).get(n)) for n in names}
    for part, (then, present) in pairs.items():
        if then != present:
            raise StoreError(
                f"the run in {folder} was started with other weights{part} (fingerprint {then}, this model "
                f"has {present}): resume it with those, or set run_dir to another folder"
            )


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Versions of Python, of this package and of what it computes with."""
    found = {"python": platform.python_version(), "nam": nam.__version__}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """The commit of this package's own repository, "+" behind it where files were changed; None elsewhere."""
    root = Path(nam.__file__).parents[1]
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+" if changed else "")


def machine() -> dict[str, Any]:
    """Processor, its cores, system and accelerator."""
    import torch

    found = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    if torch.cuda.is_available():
        found["accelerator"] = torch.cuda.get_device_name()
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown processor"


def peak_memory() -> dict[str, int]:
    """The most memory that this process held so far, in bytes: `host`, and `device` where there is one; of
    several, that which held most."""
    import torch

    unit = 1 if sys.platform == "darwin" else 1024
    found = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if torch.cuda.is_available():
        cards = range(torch.cuda.device_count())
        found["device"] = max(torch.cuda.max_memory_allocated(card) for card in cards)
    return found


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=10
    )
    return done.stdout.strip()
