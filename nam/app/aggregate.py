"""`attribute.py aggregate=RUNS`: the tables of several runs of one model as one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nam.app.config import claim_run_folder
from nam.app.quiet import say
from nam.errors import ConfigError


def run(cfg: DictConfig) -> Path:
    """Join the runs that `cfg.aggregate` names, in `cfg.run_dir`. Returns the path of the joined neurons.

    Raises:
        ConfigError: a run is to be resumed or estimated at the same time.
        StoreError: see `nam.store.joining`.
    """
    for key in ("resume", "estimate", "evaluate"):
        if cfg.get(key):
            raise ConfigError(f"aggregate only joins runs: leave {key}={cfg[key]} out")
    from nam.store.joining import find_runs, join_runs, refuse_other_models
    from nam.store.reader import Run
    from nam.store.schema import NEURONS_FILE

    given: Any = cfg.aggregate if isinstance(cfg.aggregate, str) else OmegaConf.to_container(cfg.aggregate)
    folders = find_runs(given)
    refuse_other_models([Run(folder) for folder in folders])
    claim_run_folder(cfg)
    with Console().status("joining the tables"):
        joined = join_runs(folders, Path(cfg.run_dir))
    table = Table("run", "samples", "errors", "rows of neurons", title="joined runs")
    for name, *counts in zip(joined.names, joined.samples, joined.errors, joined.neurons, strict=True):
        waits = " (not finished)" if name in joined.unfinished else ""
        table.add_row(escape(name) + waits, *(f"{count:,}" for count in counts))
    Console().print(table)
    path = joined.folder / NEURONS_FILE
    say(f"joined: {path}")
    return path
