"""Where the package keeps its configurations and the weights that it ships."""

from __future__ import annotations

from pathlib import Path

from nam.errors import ConfigError, ModelError

PACKAGE = Path(__file__).resolve().parent


def configs_folder() -> Path:
    """The folder of the yaml files: `nam/configs` of an installed package, else `configs/` of a checkout.

    Raises:
        ConfigError: neither is there.
    """
    for folder in (PACKAGE / "configs", PACKAGE.parent / "configs"):
        if (folder / "train.yaml").is_file():
            return folder
    raise ConfigError(f"no configuration files in {PACKAGE} or beside it: reinstall nam-mllm")


def weights_folder(folder: str | Path) -> Path:
    """The folder itself if it is a path, or the one of that name that the package ships.

    Raises:
        ModelError: there is no such folder.
    """
    path = Path(folder).expanduser()
    shipped = PACKAGE / "weights"
    for candidate in (path, shipped / path):
        if candidate.is_dir():
            return candidate
    names = [entry.name for entry in shipped.iterdir() if entry.is_dir()] if shipped.is_dir() else []
    hint = f"shipped with the package: {', '.join(sorted(names))}" if names else "the package ships none"
    raise ModelError(f"missing weights: there is no folder {path} ({hint})")
