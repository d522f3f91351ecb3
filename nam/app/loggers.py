"""Lightning loggers as the configuration builds them."""

from __future__ import annotations

import logging
import os
import sys

from lightning.pytorch.loggers import WandbLogger

log = logging.getLogger(__name__)


def wandb_logger(
    *,
    folder: str,
    project: str,
    name: str | None = None,
    group: str | None = None,
    offline: bool | None = None,
) -> WandbLogger:
    """A W&B logger that never stops a run: offline without a key, and when the server cannot be reached.

    folder: where the records lie (`folder`/wandb). offline: None decides by WANDB_API_KEY.
    """
    import wandb

    from nam.app.config import rank

    def make(offline: bool) -> WandbLogger:
        settings = wandb.Settings(silent=True) if offline else None  # there is no address to show
        return WandbLogger(
            save_dir=folder, project=project, name=name, group=group, offline=offline, settings=settings
        )

    without_key = not os.environ.get("WANDB_API_KEY")
    if without_key if offline is None else offline:
        return make(True)
    logger = make(False)
    if rank() == 0:
        try:
            _ = logger.experiment  # connects
        except wandb.errors.Error as error:
            log.warning("W&B is not reachable (%s): its records stay in %s/wandb", error, folder)
            return make(True)
    return logger


def end_records(*, failed: bool) -> None:
    """End the W&B records of a run, if it has any: the next run in this process would go on with them."""
    wandb = sys.modules.get("wandb")
    if wandb is None or wandb.run is None:
        return
    try:
        wandb.finish(exit_code=int(failed))
    except Exception as error:  # whatever a server that is gone brings up
        log.warning("the W&B records could not be ended: %s", error)
