"""The data of a predict loop: every item exactly once, whatever the number of processes."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import lightning as L
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from nam.checks import whole
from nam.data.items import Item, Source
from nam.errors import ConfigError

Batch = list[Item]


class Share(Sampler[int]):
    """One process's share: every `world`-th item from `rank` on, neither padded nor doubled.

    Args:
        size: Number of items.
        rank, world: Of this process, and of how many.
        done: Items to leave out, found by an earlier part of the run.
    """

    def __init__(self, size: int, *, rank: int = 0, world: int = 1, done: Collection[int] = ()) -> None:
        left = [index for index in range(size) if index not in done]
        self.indices = left[rank::world]

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)


class Items(Dataset[Item]):
    """A source as a dataset."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __getitem__(self, index: int) -> Item:
        return self.source[index]


class PredictData(L.LightningDataModule):
    """Batches of items. Set `use_distributed_sampler=False` on the Trainer: the data is shared out here.

    Args:
        source: Where the items come from.
        batch_size: Items that are answered and attributed together, per process.
        num_workers: Processes that read pictures ahead; 0 reads them in the loop.
    """

    def __init__(self, *, source: Source, batch_size: int = 8, num_workers: int = 0) -> None:
        super().__init__()
        whole("data.batch_size", batch_size, least=1, error=ConfigError)
        whole("data.num_workers", num_workers, least=0, error=ConfigError)
        if len(source) == 0:
            raise ConfigError("data.source holds nothing to ask")
        self.source, self.batch_size, self.num_workers = source, batch_size, num_workers
        self.done: Collection[int] = frozenset()
        # With fewer items than processes, some have nothing to do.
        self.allow_zero_length_dataloader_with_multiple_devices = True

    def predict_dataloader(self) -> DataLoader[Item]:
        """This process's batches."""
        trainer = self.trainer
        rank, world = (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)
        return DataLoader(
            Items(self.source),
            batch_size=self.batch_size,
            sampler=Share(len(self.source), rank=rank, world=world, done=self.done),
            num_workers=self.num_workers,
            collate_fn=list,
        )

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Items stay where they are: the model moves what it reads."""
        return batch
