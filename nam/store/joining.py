"""Joining the tables of several runs of one model into one, a part at a time."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nam.store import shards
from nam.store.files import StoreError, atomic, clean, make_folder
from nam.store.reader import Run
from nam.store.schema import (
    MANIFEST_FILE,
    NEURON_SHARDS,
    NEURONS,
    NEURONS_FILE,
    SAMPLES,
    SAMPLES_FILE,
    conform,
)

#: Of a joined folder: a row per run.
RUNS_FILE = "runs.parquet"

#: The run that a row comes from: its folder, below what all folders share.
RUN = pa.field("run", pa.string())

RUNS = pa.schema(
    [
        RUN,
        ("folder", pa.string()),
        ("status", pa.string()),
        ("seed", pa.int64()),
        ("methods", pa.list_(pa.string())),
        ("overrides", pa.list_(pa.string())),
        ("samples", pa.int64()),
        ("errors", pa.int64()),
        ("neurons", pa.int64()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Joined:
    """What was joined.

    Attributes:
        folder: Where it lies.
        names: Of the runs.
        unfinished: Of those runs that had not come to their end.
        samples, errors, neurons: Rows of each run.
    """

    folder: Path
    names: tuple[str, ...]
    unfinished: tuple[str, ...]
    samples: tuple[int, ...]
    errors: tuple[int, ...]
    neurons: tuple[int, ...]


def find_runs(given: str | Sequence[str]) -> list[Path]:
    """The run folders that are meant, each once.

    Args:
        given: Folders, or patterns such as "runs/attribute/*"; a pattern passes over what holds no run.

    Raises:
        StoreError: a folder holds no run, or a pattern finds none.
    """
    found: dict[Path, None] = {}
    for text in [given] if isinstance(given, str) else given:
        pattern = os.path.expanduser(text)
        if glob.has_magic(pattern) and not Path(pattern).exists():
            paths = [Path(path) for path in sorted(glob.glob(pattern, recursive=True))]
            paths = [path for path in paths if (path / MANIFEST_FILE).is_file()]
            if not paths:
                raise StoreError(f"aggregate={text}: no folder of this pattern holds a run")
        else:
            paths = [Path(pattern)]
        found |= dict.fromkeys(path.resolve() for path in paths)
    if not found:
        raise StoreError("aggregate names no run: set aggregate=FOLDER, or a list or pattern of folders")
    return list(found)


def join_runs(folders: Sequence[Path], target: Path) -> Joined:
    """Write samples.parquet and neurons.parquet of all runs, with a column `run` in front, and runs.parquet.

    Memory holds a part of one run's table at a time. What an interrupted run has finished is taken.

    Args:
        folders: Of the runs, in the order of the rows.
        target: The folder to write into.

    Raises:
        StoreError: a folder holds no run or a damaged one, the runs are not of one model, or the target is
            one of them or cannot be written.
    """
    runs = [Run(folder) for folder in folders]
    refuse_other_models(runs)
    if target.resolve() in {run.folder.resolve() for run in runs}:
        raise StoreError(f"run_dir={target} is one of the runs to join: set run_dir to another folder")
    names = _names([run.folder for run in runs])
    make_folder(target)
    neurons = _join(runs, names, "neurons", NEURONS, target / NEURONS_FILE)
    samples = _join(runs, names, "samples", SAMPLES, target / SAMPLES_FILE)
    errors = [_errors(run) for run in runs]
    rows = [
        {
            "run": name,
            "folder": clean(str(run.folder)),
            "status": str(run.manifest.get("status")),
            "seed": run.manifest.get("seed"),
            "methods": run.manifest.get("methods"),
            "overrides": run.manifest.get("overrides"),
            "samples": counts[0],
            "errors": counts[1],
            "neurons": counts[2],
        }
        for run, name, *counts in zip(runs, names, samples, errors, neurons, strict=True)
    ]
    try:
        table = pa.Table.from_pylist(rows, schema=RUNS)
    except (pa.ArrowException, OverflowError) as error:
        raise StoreError(f"a manifest of the runs is damaged: {error}") from error
    shards.write_table(table, target / RUNS_FILE)
    return Joined(
        folder=target,
        names=tuple(names),
        unfinished=tuple(name for run, name in zip(runs, names, strict=True) if not run.finished),
        samples=tuple(samples),
        errors=tuple(errors),
        neurons=tuple(neurons),
    )


def refuse_other_models(runs: Sequence[Run]) -> None:
    """Hold the models of all runs against that of the first.

    Raises:
        StoreError: they differ: a neuron's number means another neuron in another model.
    """
    for run in runs[1:]:
        first, other = (one.manifest.get("model", {}) for one in (runs[0], run))
        for what in ("revision", "layers", "units"):
            if first.get(what) != other.get(what):
                raise StoreError(
                    f"the runs are of different models: {runs[0].folder} of {_model(first)}, {run.folder} of "
                    f"{_model(other)}; their neurons cannot stand in one table, so aggregate them apart"
                )


def _model(model: dict[str, object]) -> str:
    size = f"{model.get('layers')} x {model.get('units')} neurons"
    return f"{model.get('name')!r} ({size}, fingerprint {model.get('revision')})"


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders below what they share; of one folder, its name."""
    whole = [folder.resolve() for folder in folders]
    shared = os.path.commonpath([path.parent for path in whole])
    return [clean(path.relative_to(shared).as_posix()) for path in whole]


def _join(
    runs: Sequence[Run], names: Sequence[str], kind: shards.Kind, schema: pa.Schema, target: Path
) -> list[int]:
    """Write one table of all runs; the rows of each."""
    wide, counts = schema.insert(0, RUN), []
    with ExitStack() as stack:
        temporary = stack.enter_context(atomic(target))
        writer = stack.enter_context(pq.ParquetWriter(temporary, wide, compression="zstd"))
        for run, name in zip(runs, names, strict=True):
            count = 0
            for table in shards.gathered(_parts(run, kind)):
                names_of_run = pa.repeat(pa.scalar(name, RUN.type), table.num_rows)
                same = table.select(schema.names).add_column(0, RUN, names_of_run)
                writer.write_table(same.cast(wide))
                count += table.num_rows
            counts.append(count)
    return counts


def _parts(run: Run, kind: shards.Kind) -> Iterator[pa.Table]:
    """A table of a run, a part at a time; by sample, where there are not more shards than can be opened."""
    files = run.files(kind)
    merged, schema, sharded = {
        "samples": (SAMPLES_FILE, SAMPLES, SAMPLES),
        "neurons": (NEURONS_FILE, NEURONS, NEURON_SHARDS),
    }[kind]
    if len(files) <= shards.MAX_OPEN and files != [run.folder / merged]:
        yield from shards.in_order(files, sharded)
        return
    for path in files:
        with shards.open_parquet(path) as file:
            for batch in shards.read_batches(path, file):
                yield conform(pa.Table.from_batches([batch]), schema, where=path)


def _errors(run: Run) -> int:
    return sum(pc.sum(pc.equal(part["status"], "error")).as_py() or 0 for part in _parts(run, "samples"))
