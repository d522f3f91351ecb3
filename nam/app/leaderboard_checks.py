"""What a leaderboard is refused for before it measures anything."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from nam.app.config import dotted_keys, read_run_config
from nam.errors import ConfigError, ModelError
from nam.store.files import CONFIG_FILE

if TYPE_CHECKING:
    from nam.evaluate.judge import Judge
    from nam.evaluate.leaderboard import Leaderboard

#: Files of the run folder.
TABLE_FILE, PROMPTS_FILE, MARKDOWN_FILE = (
    "leaderboard.parquet",
    "leaderboard_prompts.parquet",
    "leaderboard.md",
)

#: Of `evaluate`, what a resumed run may change: none of it alters what a part has measured.
_FREE = ("batch", "cache", "draws", "reference")


def check_resumed(cfg: DictConfig, settings: Leaderboard) -> None:
    """What parts have measured belongs to the settings that they were measured with.

    Raises:
        ConfigError: a setting of what is measured already is another one.
    """
    folder = Path(cfg.run_dir)
    measured = {name for name in settings.parts if part_file(folder, name).is_file()}
    wanted = {name for name, part in settings.parts.items() if part is not None}
    before, now = (_evaluate(one) for one in (read_run_config(folder / CONFIG_FILE), cfg))
    for key in sorted({*dotted_keys(before), *dotted_keys(now)}) if measured else ():
        head, _, rest = key.partition(".")
        name = rest.partition(".")[0]
        if head in _FREE or key.endswith(".device"):
            continue
        if head == "parts" and (name not in measured or name not in wanted):
            continue
        then, here = _selected(before, key), _selected(now, key)
        added = head == "parts" and before["parts"].get(name) is None  # by a resume: config.yaml knows it not
        if then != here and not added and not isinstance(then, dict):
            raise ConfigError(
                f"resume={cfg.resume}: the run was started with evaluate.{key}={then}, not {here}"
            )


def refuse_finished(cfg: DictConfig, settings: Leaderboard) -> None:
    """A finished run is resumed for a part that it lacks, or to write a table again that was deleted."""
    from nam.report.pages import REPORT_FILE
    from nam.store.claim import is_finished

    folder = Path(cfg.run_dir)
    parts = (part_file(folder, name) for name, part in settings.parts.items() if part is not None)
    files = (*parts, folder / TABLE_FILE, folder / PROMPTS_FILE, folder / REPORT_FILE)
    if is_finished(folder) and all(path.is_file() for path in files):
        raise ConfigError(f"resume={cfg.resume}: the run is finished: there is nothing to resume")


def _evaluate(cfg: DictConfig) -> dict[str, Any]:
    container: Any = OmegaConf.to_container(cfg, resolve=True)
    found: dict[str, Any] = {"parts": {}} | (container.get("evaluate") or {})
    return found


def _selected(node: Any, key: str) -> Any:
    for name in key.split("."):
        node = node.get(name) if isinstance(node, dict) else None
    return node


def part_file(folder: Path, name: str) -> Path:
    return folder / "parts" / f"{name}.parquet"


def read_judge(settings: Leaderboard) -> Judge | None:
    from nam.evaluate.judge import load_judge

    try:
        return load_judge(settings.judge) if settings.judge else None
    except ModelError as error:
        raise ConfigError(f"evaluate.judge={settings.judge}: {error}") from error


def check_cache(settings: Leaderboard) -> None:
    """Hours of truth are not measured for a folder that cannot keep them."""
    from nam.store.files import make_folder

    if settings.cache and not os.access(make_folder(Path(settings.cache)), os.W_OK | os.X_OK):
        raise ConfigError(f"evaluate.cache={settings.cache}: the folder cannot be written")
