"""A sweep of edits (`python edit.py -m ...`): a job that fails does not end it, one table compares all."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nam.app.explain import explain
from nam.app.quiet import say
from nam.errors import NamError
from nam.report.comparison import COMPARISON, ERROR_FILE, NOTE, compare, markdown, shown

log = logging.getLogger(__name__)

#: In the environment while a sweep runs, so that the jobs of any launcher know it.
SWEEPING = "NAM_SWEEPING"

Task = Callable[[DictConfig], Any]


def going_on(task: Task) -> Task:
    """The same task, but as a job of a sweep it leaves its error in its folder instead of raising it."""

    @functools.wraps(task)
    def run(cfg: DictConfig) -> Any:
        try:
            return task(cfg)
        except Exception as error:
            if SWEEPING not in os.environ:
                raise
            from nam.store.files import write_json

            line = explain(error, "edit", ())
            if isinstance(error, NamError):
                say(f"error: {line}", error=True)
            else:
                line = f"{type(error).__name__}: {line}"
                log.exception("a job of the sweep failed")
            write_json(Path(cfg.run_dir, ERROR_FILE), {"error": line, "overrides": list(cfg.overrides)})
            return None

    return run


class Comparison(Callback):
    """Writes comparison.parquet and comparison.md into the sweep's folder at its end, and prints the table.

    It reads the folders of the jobs, whoever ran them. Where one failed, the command's exit code is 2.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        os.environ[SWEEPING] = "1"

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        del os.environ[SWEEPING]
        from nam.store.files import atomic, clean

        folder = Path(config.hydra.sweep.dir)
        compared = compare(folder)
        with atomic(folder / f"{COMPARISON}.parquet") as temporary:
            compared.frame.to_parquet(temporary, index=False)
        with atomic(folder / f"{COMPARISON}.md") as temporary:
            temporary.write_text(clean(markdown(compared)), encoding="utf-8")
        names, rows = shown(compared)
        table = Table(
            title="comparison", caption=NOTE, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True
        )
        for name in names:
            widest = max(map(len, name.split()))
            table.add_column(name, overflow="fold", no_wrap=name in compared.varied, min_width=widest)
        for row in rows:
            table.add_row(*map(escape, row))
        Console().print(table)
        say(str(folder / f"{COMPARISON}.md"))
        if compared.failed:
            raise SystemExit(2)
