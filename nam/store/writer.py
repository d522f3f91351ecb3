"""Writing a run folder: one `RunWriter` in every process, no process waits for another."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
from PIL import Image

from nam.store import shards
from nam.store.claim import MERGED, check_claim, refuse_finished
from nam.store.dense import add_scores, write_sums
from nam.store.files import StoreError, atomic, clean, lock, make_folder, write_json, writing
from nam.store.merging import few_shards, join, merge
from nam.store.provenance import read_manifest
from nam.store.rows import (
    SampleResult,
    WordLookup,
    finite_scores,
    neuron_rows,
    sample_row,
    samples_table,
)
from nam.store.schema import (
    IMAGES,
    MANIFEST_FILE,
    METRICS_FILE,
    NEURON_SHARDS,
    NEURONS,
    NEURONS_FILE,
    SAMPLES,
    SAMPLES_FILE,
    SCORES_FILE,
    SHARDS,
)
from nam.store.sounds import write_wav

if TYPE_CHECKING:
    from nam.types import Scores


class RunWriter:
    """Writes what one process finds out into the run folder, flush by flush.

    Results wait in memory until `flush`; a flush is either whole or did not happen, whatever kills the
    process. Leaving the `with` block flushes what waits, also after Ctrl-C.

    Args:
        folder: The run folder, made where it is absent; it may hold files of other names.
        manifest: What is known at the start (`nam.store.run_manifest`); process 0 writes it at once.
        rank: This process.
        words: Words of neurons; None leaves the column empty.
        top: Rows of neurons.parquet per sample, concept, modality and method.
        resume: Go on with an interrupted run; otherwise a folder that holds a run is refused.

    Raises:
        StoreError: the folder holds a run, another run is writing into it, a finished run or one of other
            weights is resumed, or the folder cannot be written.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        manifest: Mapping[str, Any],
        rank: int = 0,
        words: WordLookup | None = None,
        top: int = 1000,
        resume: bool = False,
    ) -> None:
        self.folder = Path(folder)
        self.rank = rank
        self._words = words
        self._top = top
        self._waiting: list[tuple[dict[str, Any], list[pa.Table], tuple[Scores, ...]]] = []
        if rank == 0:
            refuse_finished(self.folder, resume=resume)  # before anything is made in it
        make_folder(self.folder / SHARDS)
        make_folder(self.folder / IMAGES)
        self._lock: int | None = lock(self.folder / SHARDS / f".lock-{rank}")
        try:
            check_claim(self.folder, manifest, rank=rank, resume=resume)
            if rank == 0 and resume:
                with writing(self.folder):
                    for name in MERGED:  # of a merge that was interrupted: the shards hold everything
                        (self.folder / name).unlink(missing_ok=True)
            self._next = shards.last_commits(self.folder).get(rank, -1) + 1
            self._manifest = {**manifest, "status": "running"}
            if rank == 0 and (self.folder / MANIFEST_FILE).exists():
                self._manifest |= _history(read_manifest(self.folder), manifest)
            if rank == 0:
                write_json(self.folder / MANIFEST_FILE, self._manifest)
        except BaseException:
            self._unlock()
            raise

    def add(self, result: SampleResult) -> None:
        """Take the result of a sample; its pictures are written at once, its rows at the next `flush`.

        Raises:
            StoreError: a picture cannot be written.
        """
        scores, errors = finite_scores(result)
        sample = clean(result.id)
        tables = [neuron_rows(result.index, sample, one, top=self._top, words=self._words) for one in scores]
        paths = self._write_images(result)
        row = sample_row(result, errors=errors, paths=paths, neurons=sum(table.num_rows for table in tables))
        self._waiting.append((row, tables, scores))  # one step: Ctrl-C finds a sample whole or not at all

    def flush(self) -> None:
        """Make all that was added so far durable.

        Raises:
            StoreError: it cannot be written, or scores of one concept differ in shape; everything flushed
                before stays readable.
        """
        if not self._waiting:
            return
        number = self._next
        self._waiting.sort(key=lambda one: one[0]["index"])
        neurons = [table for _, tables, _ in self._waiting for table in tables]
        table = pa.concat_tables([NEURON_SHARDS.empty_table(), *neurons])
        shards.write_table(table, self._path("neurons", number, number))
        sums = add_scores(one for _, _, scores in self._waiting for one in scores)
        write_sums(self._path("scores", number, number), sums)
        rows = samples_table([row for row, _, _ in self._waiting])
        shards.write_table(rows, self._path("samples", number, number))
        self._next += 1
        self._waiting = []
        self._join(number)

    def finish(self, *, metrics: Mapping[str, Any] | None = None, **manifest: Any) -> None:
        """Merge the shards of all processes into the final files and remove them; process 0 only.

        Call it once every process has flushed (after a barrier).

        Args:
            metrics: Becomes metrics.json.
            manifest: Replaces or adds entries of the manifest (times, peak memory).

        Raises:
            StoreError: it cannot be written, or called in another process; the shards then stay readable.
        """
        if self.rank != 0:
            raise StoreError(f"process 0 finishes a run, not process {self.rank}")
        self.flush()
        merge(few_shards(self.folder, "neurons"), self.folder / NEURONS_FILE, NEURONS)
        merge(few_shards(self.folder, "scores"), self.folder / SCORES_FILE, None)
        merge(few_shards(self.folder, "samples"), self.folder / SAMPLES_FILE, SAMPLES)
        write_json(self.folder / METRICS_FILE, dict(metrics or {}))
        self._manifest = {**self._manifest, **manifest, "status": "finished"}
        write_json(self.folder / MANIFEST_FILE, self._manifest)
        self.close()
        drop_shards(self.folder)

    def close(self) -> None:
        """Flush what waits and give the lock back."""
        try:
            self.flush()
        finally:
            self._unlock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, StoreError):
            self._unlock()  # a second attempt would hide the first error
        else:
            self.close()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _path(self, kind: shards.Kind, first: int, last: int) -> Path:
        return shards.shard_path(self.folder, kind, self.rank, first, last)

    def _write_images(self, result: SampleResult) -> dict[str, str | None]:
        mask = (
            None if result.mask is None else Image.fromarray(np.where(result.mask, 255, 0).astype(np.uint8))
        )
        images = {"input": result.input, "picture": result.picture, "mask": mask}
        paths: dict[str, str | None] = dict.fromkeys(images)
        for name, image in images.items():
            if image is not None:
                paths[name] = f"{IMAGES}/{result.index:07}-{name}.png"
                with atomic(self.folder / str(paths[name])) as temporary:
                    image.save(temporary, format="PNG")
        paths["sound"] = None
        if result.sound is not None:
            paths["sound"] = name = f"{IMAGES}/{result.index:07}-sound.wav"
            with atomic(self.folder / name) as temporary:
                write_wav(result.sound, temporary)
        return paths

    def _join(self, number: int) -> None:
        """Join this process's latest shards where it is time to."""
        first = number + 1 - shards.span_to_join(number)
        if first == number:
            return
        for kind in shards.KINDS:
            mine = [shard for shard in shards.committed(self.folder, kind) if shard.rank == self.rank]
            join([shard for shard in mine if shard.first >= first], self.folder, kind)


def drop_shards(folder: Path) -> None:
    """Remove the shards of a finished run, if there are any left.

    Raises:
        StoreError: they cannot be removed.
    """
    path = folder / SHARDS
    if path.is_dir():
        with writing(path):
            shutil.rmtree(path)


def _history(before: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, Any]:
    """When an interrupted run was started, and every time that it went on."""
    return {
        "started": before.get("started"),
        "resumed": [*before.get("resumed", []), manifest.get("started")],
    }
