"""Collecting activations in a Trainer's predict loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, LightningModule, Trainer

from nam.hooks.recorder import Recorder
from nam.hooks.sites import Where

if TYPE_CHECKING:
    from nam.mllm.base import MLLM


class ActivationRecorder(Callback):
    """Gives a module hooks that read activations while its model generates.

    The module (`nam.modules.attribution`) has a model `mllm` and asks its `record` for a recorder for every
    generation; without this callback `record` is None, and answers are replayed to read them. The hooks stand
    during a generation only: `check` holds that after each batch, and after an exception, none is left.

    Args:
        where: Positions that are read.
    """

    def __init__(self, *, where: Where = "answer") -> None:
        self.where = where

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.record = lambda: Recorder(pl_module.mllm, where=self.where)  # type: ignore[assignment,arg-type]

    def on_predict_batch_end(self, trainer: Trainer, pl_module: LightningModule, *rest: Any) -> None:
        check(pl_module.mllm)  # type: ignore[arg-type]

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.record = None  # type: ignore[assignment]

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        pl_module.record = None  # type: ignore[assignment]


def check(mllm: MLLM) -> None:
    """Make sure that no hook is left at a place where we read or write.

    Raises:
        RuntimeError: one is.
    """
    norm = mllm.final_norm
    for module in [*(site.linear for site in mllm.ffn_sites), *([] if norm is None else [norm])]:
        if module._forward_pre_hooks:
            raise RuntimeError(f"a hook is left on {type(module).__name__} after the batch")
