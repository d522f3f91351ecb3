"""Lightning loggers as the configuration builds them."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

log = logging.getLogger(__name__)

#: Ways to keep records, each tried where the one before fails: at the server, on this machine, not at all.
MODES = ("online", "offline", "disabled")


class Wandb(WandbLogger):
    """Lightning's W&B logger, but nothing that W&B brings up stops a run.

    Where the server cannot be reached or refuses the key, records stay on this machine, for `wandb sync`;
    where these cannot be written either, there are none. It is told once.

    Args:
        folder: Where the records lie (`folder`/wandb).
        modes: Of `MODES`, in the order in which they are tried.
        wait: Seconds for the server's first answer.
        upload: Seconds, at the end, for what is not yet uploaded.
        options: Of wandb.init: project, name, group.
    """

    def __init__(
        self, *, folder: str, modes: tuple[str, ...], wait: float, upload: float, **options: Any
    ) -> None:
        super().__init__(save_dir=folder, **options)
        # Lightning passes it on even where it is not asked for, and wandb then warns that it has no effect.
        self._wandb_init.pop("anonymous", None)
        self._modes = modes
        self._limits: dict[str, Any] = {"init_timeout": wait, "finish_timeout": upload}
        self._failed = False

    @property
    def experiment(self) -> Any:
        """The run of W&B, begun when it is first asked for."""
        if self._experiment is None and getattr(rank_zero_only, "rank", 0) == 0:
            self._begin()
        return super().experiment

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        try:
            super().log_metrics(metrics, step)
        except Exception as error:  # a server that is gone, a full disk, a service that has crashed
            self._tell(error)

    def log_hyperparams(self, params: Any) -> None:
        try:
            super().log_hyperparams(params)
        except Exception as error:
            self._tell(error)

    def _begin(self) -> None:
        import wandb

        for mode in self._modes:
            self._wandb_init["mode"] = mode
            # Offline there is no address to show.
            self._wandb_init["settings"] = wandb.Settings(silent=mode != "online", **self._limits)
            try:
                _ = super().experiment
                return
            except Exception as error:
                here = f"its records stay in {self.save_dir}/wandb"
                kept = here if mode == "online" else "it keeps no records"
                log.warning("W&B cannot be used (%s): %s", " ".join(str(error).split()), kept)

    def _tell(self, error: Exception) -> None:
        if not self._failed:
            log.warning("W&B could not take the records, and may lack some: %r", error)
        self._failed = True


def wandb_logger(
    *,
    folder: str,
    project: str,
    name: str | None = None,
    group: str | None = None,
    offline: bool | None = None,
    wait: float = 30.0,
    upload: float = 600.0,
) -> Wandb:
    """A W&B logger that never stops a run: offline without a key, and when the server cannot be reached.

    folder: where the records lie (`folder`/wandb). offline: None decides by WANDB_MODE where that is one of
    `MODES`, else by WANDB_API_KEY. wait: seconds for the server's first answer. upload: seconds, at the end,
    for what is not yet uploaded.
    """
    first = os.environ.get("WANDB_MODE", "")
    if offline is not None or first not in MODES:
        here = not os.environ.get("WANDB_API_KEY") if offline is None else offline
        first = "offline" if here else "online"
    modes = MODES[MODES.index(first) :]
    return Wandb(
        folder=folder, modes=modes, wait=wait, upload=upload, project=project, name=name, group=group
    )


def end_records(*, failed: bool) -> None:
    """End the W&B records of a run, if it has any: the next run in this process would go on with them."""
    wandb: Any = sys.modules.get("wandb")
    if wandb is None or wandb.run is None:
        return
    try:
        wandb.finish(exit_code=int(failed))
    except Exception as error:  # a full disk, a service that has crashed
        log.warning("the W&B records could not be ended: %s", error)
        with suppress(Exception):
            wandb.teardown()  # the service: the next run starts another
        wandb.run = None
