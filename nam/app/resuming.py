"""Going on with an interrupted run of `attribute.py`: what is done, and whether it is asked the same."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from omegaconf import DictConfig

from nam.app.build import build
from nam.app.config import check_run_folder, rank
from nam.app.leaderboard_checks import check_resumed
from nam.app.named import TARGET
from nam.app.settings import SETTLED
from nam.errors import ConfigError
from nam.store.schema import MANIFEST_FILE

if TYPE_CHECKING:
    from nam.data.items import Item, Source

#: Most samples that are held against the data; more are left out evenly.
HELD = 1000


def refuse_other_job(cfg: DictConfig) -> None:
    """Raise ConfigError where the run folder holds a run of other settings."""
    check_run_folder(cfg, settled=SETTLED)
    evaluate = cfg.get("evaluate")
    if evaluate is not None and evaluate["_target_"] != TARGET:
        check_resumed(cfg, build(evaluate))


def only_report_left(cfg: DictConfig) -> bool:
    """Whether nothing is left of an interrupted run but its report; asked before anything is loaded or
    written into the folder.

    Raises:
        ConfigError: it holds another run, or none that could be resumed, or one of other settings.
        StoreError: it holds a finished run.
    """
    from nam.report.pages import REPORT_FILE
    from nam.store.claim import is_finished, refuse_finished

    check_run_folder(cfg, settled=SETTLED)
    if not cfg.resume or not is_finished(cfg.run_dir):
        return False
    if rank() == 0 and Path(cfg.run_dir, REPORT_FILE).is_file():  # it comes last
        refuse_finished(cfg.run_dir, resume=True)
    return True


def done_of(folder: str) -> frozenset[int]:
    """The samples that an interrupted run has finished."""
    from nam.store import Run

    return Run(folder).done if Path(folder, MANIFEST_FILE).is_file() else frozenset()


def refuse_other_data(folder: str, source: Source) -> None:
    """Hold what was asked in an interrupted run against the data that it is to go on with.

    A sample is known by its place in the data: after rows were put in or taken out, some samples would be
    asked twice and others never.

    Args:
        folder: The run folder.
        source: The data.

    Raises:
        ConfigError: a sample that is done was another one.
    """
    from nam.store import Run

    if not Path(folder, MANIFEST_FILE).is_file():
        return
    rows = Run(folder).samples[["index", "id", "prompt", "concept"]]
    chosen = np.unique(np.linspace(0, max(0, len(rows) - 1), min(HELD, len(rows))).astype(int))
    for index, *before in rows.iloc[chosen].itertuples(index=False):
        now = _asked(source[index], prompt=before[1]) if index < len(source) else None
        if now != before:
            raise ConfigError(
                f"resume={folder}: the data has changed since the run was started: sample {index} was "
                f"{before}, now it is {now or 'not there'}; bring the data back, or begin a new run with "
                "another run_dir"
            )


def _asked(item: Item, *, prompt: str) -> list[str]:
    """Id, prompt (where none is given, the model's own) and concept, as samples.parquet has them."""
    from nam.store.files import clean

    sample = item.sample
    concept = sample.concept.name if sample.concept else ""
    return [clean(sample.id), clean(sample.prompt) or prompt, clean(concept)]
