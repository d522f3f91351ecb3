"""What the trainings of the embedded model's parts have in common: optimiser, schedule, export."""

from __future__ import annotations

import copy
import json
from abc import abstractmethod
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from nam.mllm.parts import read_pretrained


class Part(L.LightningModule):
    """A part of the embedded model in training.

    A part names what it computes in `losses`; the first entry, "loss", is minimised and every entry is
    logged. `export` writes the trained part in its standard layout, in half precision.

    lr: peak learning rate. warmup: steps of linear rise. decay: last share of the steps with linear fall
    to zero (the rate is constant in between, so a training can be continued from any checkpoint before it).
    """

    def __init__(
        self,
        *,
        lr: float,
        weight_decay: float = 0.01,
        warmup: int = 200,
        decay: float = 0.3,
        beta2: float = 0.99,
    ) -> None:
        super().__init__()
        self.lr, self.weight_decay, self.beta2 = lr, weight_decay, beta2
        self.warmup, self.decay = warmup, decay

    @abstractmethod
    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Scalars to log; "loss" is the one to minimise."""

    @abstractmethod
    def export(self, folder: Path) -> None:
        """Write the trained part below `folder` (the weights folder of the embedded model)."""

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        scalars = self.losses(batch)
        self.log_dict({f"train/{k}": v.detach() for k, v in scalars.items()}, prog_bar=True)
        return scalars["loss"]

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        scalars = self.losses(batch)
        size = next(iter(batch.values())).shape[0]
        self.log_dict({f"val/{k}": v for k, v in scalars.items()}, batch_size=size, sync_dist=True)

    def configure_optimizers(self) -> Any:
        parameters = [p for p in self.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.lr, betas=(0.9, self.beta2))
        total = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.rate(step, total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def rate(self, step: int, total: int) -> float:
        """Share of the peak learning rate at a step: rise, constant, fall."""
        rise = (step + 1) / max(1, self.warmup)
        fall = (total - step) / max(1.0, self.decay * total)
        return max(0.0, min(1.0, rise, fall))


def start(model: Any, *, start_from: str | None, name: str) -> Any:
    """The new model, or one of its class from folder `name` of the weights folder `start_from`.

    Raises ModelError where that folder holds no such model.
    """
    if start_from is None:
        return model
    return read_pretrained(type(model), Path(start_from) / name, torch.float32)


def save_half(model: Any, folder: Path) -> None:
    """`save_pretrained` a copy in float16; the model in training stays as it is.

    Floating-point buffers (batch-norm statistics) go along. Raises ValueError where half precision overflows.
    """
    half = copy.deepcopy(model).to("cpu").half()
    bad = [name for name, tensor in half.state_dict().items() if not torch.isfinite(tensor).all()]
    if bad:
        raise ValueError(f"not finite in half precision, not exported: {', '.join(bad)}")
    half.save_pretrained(folder, safe_serialization=True)
    config = folder / "config.json"
    values = json.loads(config.read_text())
    if values.pop("_name_or_path", None):  # diffusers notes where the weights were read from
        config.write_text(json.dumps(values, indent=2) + "\n")
