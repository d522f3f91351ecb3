"""Shards: what one process has finished so far, and how they become one table.

A shard file is called `<kind>-<rank>-<first>-<last>.<suffix>` and holds flushes `first` to `last` of process
`rank`. Every flush writes neurons, scores and samples, in this order: the samples file is the commit, and a
flush without one never happened. Now and then a process joins its latest shards into one (every 32 flushes
the last 32, every 1,024 the last 1,024), so that their number stays small. A joined shard lies beside its
parts until these are deleted: of several that end at the same flush, the widest counts.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nam.store.files import StoreError, atomic
from nam.store.schema import NEURON_SHARDS, SHARDS, conform

Kind = Literal["samples", "neurons", "scores"]

#: The commit comes last.
KINDS: tuple[Kind, ...] = ("neurons", "scores", "samples")

SUFFIXES: dict[Kind, str] = {"samples": "parquet", "neurons": "parquet", "scores": "safetensors"}

#: Flushes that are joined into one shard: each a multiple of the one before.
SPANS = (32, 1024, 32768)

#: Most files that are merged at once.
MAX_OPEN = 128

#: What arrow raises of a file that is not what it should be.
DAMAGED = (OSError, pa.ArrowException, ValueError)

#: Rows that are read from one shard, or written to the merged file, at once.
ROWS = 32_768

#: Rows that are read at once from each of up to `MAX_OPEN` files.
MERGED_ROWS = 2_048

_NAME = re.compile(r"(samples|neurons|scores)-(\d{5,})-(\d{7,})-(\d{7,})\.(parquet|safetensors)")


@dataclass(frozen=True, order=True)
class Shard:
    """A shard file: flushes `first` to `last` (included) of process `rank`."""

    rank: int
    last: int
    first: int
    path: Path


def shard_path(folder: Path, kind: Kind, rank: int, first: int, last: int) -> Path:
    """Where a run folder keeps a shard."""
    return folder / SHARDS / f"{kind}-{rank:05}-{first:07}-{last:07}.{SUFFIXES[kind]}"


def list_shards(folder: Path, kind: Kind) -> list[Shard]:
    """Every shard file of a kind, committed or not."""
    found = []
    if (folder / SHARDS).is_dir():
        for path in (folder / SHARDS).iterdir():
            match = _NAME.fullmatch(path.name)
            if match and match[1] == kind:
                found.append(Shard(int(match[2]), int(match[4]), int(match[3]), path))
    return sorted(found)


def last_commits(folder: Path) -> dict[int, int]:
    """The last finished flush of every process that has one."""
    return {shard.rank: shard.last for shard in list_shards(folder, "samples")}


def committed(folder: Path, kind: Kind) -> list[Shard]:
    """The shards that together hold every finished flush exactly once.

    Raises:
        StoreError: a part of what was finished is missing.
    """
    files = list_shards(folder, kind)
    chosen: list[Shard] = []
    for rank, last in last_commits(folder).items():
        widest = {shard.last: shard for shard in reversed(files) if shard.rank == rank}
        chain: list[Shard] = []
        while last >= 0:
            if last not in widest or widest[last].first > last:
                raise StoreError(
                    f"{folder / SHARDS} is damaged: flush {last} of process {rank} has no {kind}"
                )
            chain.append(widest[last])
            last = widest[last].first - 1
        chosen += reversed(chain)
    return chosen


def span_to_join(flush: int) -> int:
    """How many of the latest flushes are joined after this one; 1 for none.

    >>> [span_to_join(flush) for flush in (0, 30, 31, 1023)]
    [1, 1, 32, 1024]
    """
    return max((span for span in SPANS if (flush + 1) % span == 0), default=1)


def merge_tables(sources: Sequence[Path], target: Path, schema: pa.Schema) -> None:
    """Merge parquet files, each sorted by `index`, into one sorted by `index`, holding only a part in memory.

    Columns that `schema` has not are left out.

    Raises:
        StoreError: a source is damaged, or the target cannot be written.
    """
    with ExitStack() as stack:
        temporary = stack.enter_context(atomic(target))
        writer = stack.enter_context(pq.ParquetWriter(temporary, schema, compression="zstd"))
        whole = schema if "index" in schema.names else schema.insert(0, NEURON_SHARDS.field("index"))
        for table in gathered(in_order(sources, whole)):
            writer.write_table(table.select(schema.names).cast(schema))


def in_order(sources: Sequence[Path], schema: pa.Schema) -> Iterator[pa.Table]:
    """The rows of each sample of parquet files that are sorted by `index`, in the order of all.

    Args:
        sources: The files.
        schema: Of what is wanted; `index` is among it.

    Raises:
        StoreError: a file is damaged.
    """
    with ExitStack() as stack:
        files = [(path, stack.enter_context(open_parquet(path))) for path in sources]
        parts = (_samples_of(*file, schema) for file in files)
        for _, group in heapq.merge(*parts, key=lambda group: group[0]):
            yield group


def gathered(parts: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of at least `ROWS`, but for the last."""
    waiting: list[pa.Table] = []
    rows = 0
    for part in parts:
        waiting.append(part)
        rows += part.num_rows
        if rows >= ROWS:
            yield pa.concat_tables(waiting)
            waiting, rows = [], 0
    if rows:
        yield pa.concat_tables(waiting)


def write_table(table: pa.Table, path: Path) -> None:
    """Write one table atomically.

    Raises:
        StoreError: it cannot be written.
    """
    with atomic(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=ROWS)


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a parquet file.

    Raises:
        StoreError: it is missing or damaged.
    """
    try:
        file = pq.ParquetFile(path)
        _ = file.schema_arrow.names  # which have to be text
    except DAMAGED as error:
        raise StoreError(f"cannot read {path}: {error}") from error
    return file


def read_batches(
    path: Path, file: pq.ParquetFile, columns: Sequence[str] | None = None, *, rows: int = ROWS
) -> Iterator[pa.RecordBatch]:
    """The rows of an open parquet file, a part at a time.

    Args:
        columns: Of these columns only.

    Raises:
        StoreError: it is damaged.
    """
    try:
        yield from file.iter_batches(batch_size=rows, columns=columns)
    except DAMAGED as error:
        raise StoreError(f"cannot read {path}: {error}") from error


def _samples_of(path: Path, file: pq.ParquetFile, schema: pa.Schema) -> Iterator[tuple[int, pa.Table]]:
    """The rows of each sample, in the file's order."""
    carried: pa.Table | None = None
    for batch in read_batches(path, file, rows=MERGED_ROWS):
        table = conform(pa.Table.from_batches([batch]), schema, where=path)
        if carried is not None:
            table = pa.concat_tables([carried, table])
        index = table["index"].to_numpy()
        starts = [0, *(np.flatnonzero(np.diff(index)) + 1).tolist()]
        for start, stop in pairwise(starts):
            yield int(index[start]), table.slice(start, stop - start)
        carried = table.slice(starts[-1])
    if carried is not None and carried.num_rows:
        yield int(carried["index"][0].as_py()), carried
