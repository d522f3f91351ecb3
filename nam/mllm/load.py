"""`nam.load`: a model by the name of its config, or from its folder."""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nam.checks import expect
from nam.errors import ConfigError, ModelError, nearest
from nam.folders import configs_folder
from nam.mllm.base import MLLM
from nam.mllm.config import CONFIG_FILE, read_json

#: What reads a folder of each family, by the `model_type` in its config.json.
FAMILIES = {"gill": "nam.mllm.gill_folder.read_gill"}

#: What reads a folder of transformers whose models also draw, likewise; all others answer in words alone.
DRAWING = {
    "janus": "nam.mllm.janus.read_janus",
    "emu3": "nam.mllm.emu3.read_emu3",
    "chameleon": "nam.mllm.chameleon.read_chameleon",
}

#: What a config holds where the user must give a value.
MISSING = "???"


def load(name: str | Path = "tiny_gill", **overrides: Any) -> MLLM:
    """A frozen model, ready to answer.

    Args:
        name: A config under `configs/mllm`, or a model's folder.
        overrides: Instead of the config's values, such as `device="cuda"` or `sampler="ddim"`.

    Raises:
        ConfigError: no such config (the nearest names are given), an override that is unknown or wrong, or
            none for a value that the config leaves open.
        ModelError: weights are missing or damaged.
    """
    settings = settings_of(name)
    build = target(settings.pop("_target_"))
    known = inspect.signature(build).parameters
    for key in (*settings, *overrides):
        if key not in known:
            raise ConfigError(f"mllm.{key} is unknown ({nearest(key, known)})")
    for key, value in settings.items():
        if value == MISSING and key not in overrides:
            raise ConfigError(f"{key} is missing: nam.load({str(name)!r}, {key}=...)")
    return build(**{**settings, **overrides})


def settings_of(name: str | Path) -> dict[str, Any]:
    """The config of that name, or what reads that folder: `_target_` and its arguments.

    Raises:
        ConfigError: neither exists, or the file is no config of a model.
        ModelError: the folder holds no model of a known family.
    """
    if not isinstance(name, os.PathLike):
        expect(str, name, "mllm: expected the name of a config or a model's folder", error=ConfigError)
    folder = configs_folder() / "mllm"
    files = sorted(folder.rglob("*.yaml"))
    known = {path.relative_to(folder).with_suffix("").as_posix(): path for path in files}
    if str(name) in known:
        return _read_yaml(known[str(name)])
    path = Path(name).expanduser()
    if str(name) and path.is_dir():
        family = read_json(path / CONFIG_FILE).get("model_type")
        if _is_of_transformers(family):
            return {"_target_": DRAWING.get(str(family), "nam.mllm.vlm_folder.read_vlm"), "id": path}
        if family not in FAMILIES:
            hint = nearest(str(family), FAMILIES)
            raise ModelError(f"{path / CONFIG_FILE}: model_type {family!r} is unknown ({hint})")
        return {"_target_": FAMILIES[family], "folder": path}
    raise ConfigError(
        f"mllm={name or repr(name)} is neither a config ({nearest(str(name), known)}) nor a folder"
    )


def _is_of_transformers(family: Any) -> bool:
    from transformers import CONFIG_MAPPING

    return family in CONFIG_MAPPING


def target(dotted: str) -> Callable[..., MLLM]:
    """The function of this package that a config's `_target_` names.

    Raises:
        ConfigError: it is not one of this package.
    """
    module_name, _, function_name = dotted.rpartition(".")
    if not module_name.startswith("nam."):
        raise ConfigError(f"_target_ must be a function of this package, got {dotted!r}")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"_target_={dotted!r} cannot be imported: {error}") from error
    found: Callable[..., MLLM] = function
    return found


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(settings, Mapping) or not isinstance(settings.get("_target_"), str):
        raise ConfigError(f"{path}: expected a _target_ and its arguments")
    return dict(settings)
