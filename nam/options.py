"""The parts that a run can swap, by the names of their files under `configs/`, for use in Python."""

from __future__ import annotations

import importlib
from functools import lru_cache
from typing import Any

import yaml

from nam.checks import expect
from nam.errors import ConfigError, nearest
from nam.folders import configs_folder


def option(group: str, name: str, /, **overrides: Any) -> Any:
    """The object that `configs/<group>/<name>.yaml` describes.

    Args:
        group: "editor", "reduction", "relevance" or "segmenter".
        name: Of the file.
        overrides: Instead of the file's values.

    Raises:
        ConfigError: no such file (the nearest names are given), or an unknown override.
    """
    files = {path.stem: path for path in sorted((configs_folder() / group).glob("*.yaml"))}
    if name not in files:
        raise ConfigError(f"{group}={name}: no such option; {nearest(str(name), files)}")
    settings = yaml.safe_load(files[name].read_text(encoding="utf-8"))
    module_name, _, class_name = settings.pop("_target_").rpartition(".")
    for key in overrides:
        if key not in settings:
            raise ConfigError(f"{group}.{key} is unknown ({nearest(key, settings)})")
    return getattr(importlib.import_module(module_name), class_name)(**{**settings, **overrides})


def part(kind: type, group: str, given: Any) -> Any:
    """The part that is given, as itself or by its name.

    Args:
        kind: Its class.
        group: As in `option`.
        given: An object of that class, or the name of a file.

    Raises:
        ConfigError: it is neither.
    """
    found = _kept(group, given) if isinstance(given, str) else given
    what = f"{group}: expected one name under configs/{group}, or an instance of {kind.__name__}"
    expect(kind, found, what, error=ConfigError)
    return found


#: Options hold no state but a segmenter's network, which is read once.
_kept = lru_cache(maxsize=32)(option)
