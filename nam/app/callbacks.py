"""Lightning callbacks as the configuration builds them."""

from __future__ import annotations

import signal
from datetime import timedelta
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import ProcessingSpeedColumn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import RenderableType
from rich.progress import Task
from rich.text import Text


def checkpoint(*, folder: str, minutes: float) -> ModelCheckpoint:
    """Keep one checkpoint, `folder`/last.ckpt, renewed every so many minutes (each write is atomic)."""
    return ModelCheckpoint(
        dirpath=folder,
        filename="last",
        monitor=None,
        save_top_k=1,
        train_time_interval=timedelta(minutes=minutes),
        enable_version_counter=False,
    )


class Speed(ProcessingSpeedColumn):
    """Lightning's column, which knows no speed before the second step, not even of a loop of one."""

    def render(self, task: Task) -> RenderableType:
        spent = task.finished_time or task.elapsed
        if task.speed is None and task.completed and spent:
            return Text(f"{task.completed / spent:>.2f}it/s", style=self.style)
        return super().render(task)


class Progress(RichProgressBar):
    """Lightning's bar without the number of epochs, which says nothing where training counts steps."""

    def configure_columns(self, trainer: Trainer) -> list[Any]:
        columns = super().configure_columns(trainer)
        return [Speed(one.style) if isinstance(one, ProcessingSpeedColumn) else one for one in columns]

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        shown = super().get_metrics(trainer, pl_module)
        shown.pop("v_num", None)
        return shown

    @property
    def predict_description(self) -> str:
        return "attributing"

    def _get_train_description(self, current_epoch: int) -> str:
        return "training"


class EndOnTerm(Callback):
    """Ends a predict loop at SIGTERM at once, as Ctrl-C does; Lightning's own loop goes on to its end.

    Put it behind the callbacks that write results: they do so before other processes are told to end too.
    """

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        def end(number: int, frame: FrameType | None) -> None:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one does not disturb the ending
            raise SIGTERMException

        signal.signal(signal.SIGTERM, end)  # the Trainer puts back what was there before
        if trainer.received_sigterm:  # since the Trainer started
            raise SIGTERMException

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, SIGTERMException) and trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(signal.SIGTERM)


class Curve(Callback):
    """Keeps what a training logs, step by step; a checkpoint holds it, so that a resumed one has it all.

    Attributes:
        steps: A mapping name -> value for each step, "step" (from 1) among them.
    """

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.steps.append({"step": float(trainer.global_step), **logged})

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.steps = list(state_dict["steps"])
