"""Lightning callbacks as the configuration builds them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar


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


class Progress(RichProgressBar):
    """Lightning's bar without the number of epochs, which says nothing where training counts steps."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        shown = super().get_metrics(trainer, pl_module)
        shown.pop("v_num", None)
        return shown

    @property
    def predict_description(self) -> str:
        return "attributing"

    def _get_train_description(self, current_epoch: int) -> str:
        return "training"
