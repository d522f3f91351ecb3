"""Joining shards: now and then while a process writes, and all of them at the end of a run."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from nam.store.dense import merge_sums
from nam.store.files import writing
from nam.store.schema import NEURON_SHARDS, SAMPLES
from nam.store.shards import MAX_OPEN, Kind, Shard, committed, merge_tables, shard_path


def few_shards(folder: Path, kind: Kind) -> list[Path]:
    """The finished shards; joined per process first where there are too many to open at once."""
    found = committed(folder, kind)
    if len(found) > MAX_OPEN:
        for rank in sorted({shard.rank for shard in found}):
            join([shard for shard in found if shard.rank == rank], folder, kind)
        found = committed(folder, kind)
    return [shard.path for shard in found]


def join(parts: list[Shard], folder: Path, kind: Kind) -> None:
    """Replace consecutive shards of one process by one."""
    if len(parts) < 2:
        return
    target = shard_path(folder, kind, parts[0].rank, parts[0].first, parts[-1].last)
    schema = {"samples": SAMPLES, "neurons": NEURON_SHARDS, "scores": None}[kind]
    merge([shard.path for shard in parts], target, schema)
    with writing(target):
        for shard in parts:
            shard.path.unlink()


def merge(sources: list[Path], target: Path, schema: pa.Schema | None) -> None:
    """Merge shards into `target`: tables by index, or sums where there is no schema.

    Raises:
        StoreError: a source is damaged, or the target cannot be written.
    """
    if schema is None:
        merge_sums(sources, target)
    else:
        merge_tables(sources, target, schema)
