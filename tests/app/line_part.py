"""A part small enough to train in a test: a line fitted to points. Run as a script, it is train.py with this
part known under nam.modules (targets elsewhere are refused)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset


class LineData(L.LightningDataModule):
    def __init__(self, *, points: int, validate: bool = True) -> None:
        super().__init__()
        self.validate = validate
        x = torch.linspace(-1, 1, points)[:, None]
        self.points = TensorDataset(x, 3 * x + 1)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.points, batch_size=4)

    def val_dataloader(self) -> DataLoader[Any] | None:
        return DataLoader(self.points, batch_size=4) if self.validate else None


class LinePart(L.LightningModule):
    """lr: learning rate. needs: weights file of a part before, read from weights_dir."""

    def __init__(self, *, lr: float, weights_dir: str, needs: str | None = None, name: str = "first") -> None:
        super().__init__()
        self.line = torch.nn.Linear(1, 1)
        self.lr, self.name = lr, name
        if needs:
            self.line.load_state_dict(load_file(Path(weights_dir, needs)))

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        loss = torch.nn.functional.mse_loss(self.line(batch[0]), batch[1])
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        self.log("val/loss", torch.nn.functional.mse_loss(self.line(batch[0]), batch[1]), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.lr)

    def export(self, folder: Path) -> None:
        save_file(self.line.state_dict(), folder / f"{self.name}.safetensors")


#: Brings the configurations of this part into Hydra's search path.
ARGS = [f"--config-dir={Path(__file__).with_name('configs')}"]


def install(patch: pytest.MonkeyPatch) -> None:
    """Make this module importable as nam.modules.line_part, with its classes at home there."""
    patch.setitem(sys.modules, "nam.modules.line_part", sys.modules[__name__])
    for part in (LineData, LinePart):
        patch.setattr(part, "__module__", "nam.modules.line_part")


if __name__ == "__main__":
    from nam.app.train import main

    install(pytest.MonkeyPatch())

    main()
