"""Endless training batches and fixed validation batches, each a function of a seed and a number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

Batch = dict[str, Tensor]
MakeBatch = Callable[[np.random.Generator, int, str], Batch]
"""(rng, number of samples, split) -> batch."""


class NumberedBatches(Dataset[Batch]):
    """Batch `i` follows from (seed, start + i) alone: nothing is stored, and a resumed run draws new ones."""

    def __init__(
        self,
        make: MakeBatch,
        *,
        size: int,
        count: int,
        split: str,
        seed: tuple[int, ...],
        start: int = 0,
        early: MakeBatch | None = None,
        early_batches: int = 0,
    ) -> None:
        self.make, self.size, self.count = make, size, count
        self.early, self.early_batches = early or make, early_batches
        self.split, self.seed, self.start = split, seed, start

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Batch:
        if not 0 <= index < self.count:
            raise IndexError(index)
        number = self.start + index
        make = self.early if number < self.early_batches else self.make
        return make(np.random.default_rng([*self.seed, number]), self.size, self.split)


class StatelessLoader(DataLoader[Batch]):
    """A loader that needs no state to be resumed: where it goes on follows from the trainer's step. The two
    methods tell Lightning so."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class PartData(L.LightningDataModule):
    """Batches for one part's training, drawn by `make`, the first `early_batches` of them by `early`.

    batch_size: samples per step and process. val_batches: fixed batches from the val split (0: none).
    early: draws what is easier to begin with.
    num_workers: processes that draw ahead (0 draws in the training process, right where cores are few).
    """

    def __init__(
        self,
        *,
        make: MakeBatch,
        batch_size: int,
        val_batches: int = 4,
        num_workers: int = 0,
        seed: int = 0,
        early: MakeBatch | None = None,
        early_batches: int = 0,
    ) -> None:
        super().__init__()
        self.early, self.early_batches = early or make, early_batches
        self.make, self.batch_size, self.val_batches = make, batch_size, val_batches
        self.num_workers, self.seed = num_workers, seed

    def train_dataloader(self) -> DataLoader[Any]:
        trainer = self.trainer
        assert trainer is not None, "the Trainer attaches itself before it asks for data"
        steps = trainer.max_steps if trainer.max_steps > 0 else 1000
        batches = NumberedBatches(
            self.make,
            early=self.early,
            early_batches=self.early_batches,
            size=self.batch_size,
            count=max(1, steps * trainer.accumulate_grad_batches),
            split="train",
            seed=(self.seed, trainer.global_rank),
            start=trainer.global_step * trainer.accumulate_grad_batches,
        )
        return StatelessLoader(batches, batch_size=None, num_workers=self.num_workers)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        if not self.val_batches:
            return []
        # a seed of its own length, so that no validation batch is a training batch
        seed = (self.seed, 0, 1)
        batches = NumberedBatches(
            self.make, size=self.batch_size, count=self.val_batches, split="val", seed=seed
        )
        return DataLoader(batches, batch_size=None)
