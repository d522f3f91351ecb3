"""Reading a run folder, finished or interrupted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from nam.errors import nearest
from nam.store import shards
from nam.store.dense import Key, open_sums, read_sum, sum_keys
from nam.store.files import StoreError, read_json
from nam.store.provenance import read_manifest
from nam.store.rows import rank_neurons
from nam.store.schema import (
    MANIFEST_FILE,
    METRICS_FILE,
    NEURON_SHARDS,
    NEURONS,
    NEURONS_FILE,
    SAMPLES,
    SAMPLES_FILE,
    SCORES_FILE,
    conform,
)

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, eq=False)
class MeanScores:
    """Scores of a concept over the samples of a run.

    Attributes:
        scores: Mean score, (L, d) float32.
        activations: Mean activation, (L, d) float32.
        count: Number of samples.
    """

    scores: NDArray[np.float32]
    activations: NDArray[np.float32]
    count: int

    def top(self, count: int) -> list[tuple[int, int]]:
        """The `count` best neurons as (layer, unit), in the order of `rank_neurons`."""
        scores, activations = torch.from_numpy(self.scores), torch.from_numpy(self.activations)
        best = rank_neurons(scores, count=count, activations=activations)
        return [(int(layer), int(unit)) for layer, unit in best]


class Run:
    """A run folder. Where a final file is not there yet, the shards are read: what is finished is readable.

    Args:
        folder: The run folder.

    Raises:
        StoreError: it holds no run, or one of a newer schema.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / MANIFEST_FILE).is_file():
            raise StoreError(f"{self.folder} holds no run: there is no {MANIFEST_FILE}")
        _ = self.manifest

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """manifest.json."""
        return read_manifest(self.folder)

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return self.manifest.get("status") == "finished"

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """metrics.json; empty before the end of the run."""
        path = self.folder / METRICS_FILE
        return read_json(path) if path.is_file() else {}

    @cached_property
    def samples(self) -> DataFrame:
        """samples.parquet, in the data's order."""
        return self._read("samples", SAMPLES, None)

    @property
    def neurons(self) -> DataFrame:
        """neurons.parquet, all of it; `read_neurons` reads a part of a large run."""
        return self.read_neurons()

    def read_neurons(
        self,
        *,
        samples: Sequence[str] | None = None,
        concept: str | None = None,
        modality: str | None = None,
        method: str | None = None,
        top: int | None = None,
    ) -> DataFrame:
        """Rows of neurons.parquet, in its order; memory holds only those that are asked for.

        Args:
            samples: Of these samples only.
            concept: Of this concept only.
            modality: "text", "image", "audio" or "video".
            method: Of this method only.
            top: Ranks 1 to `top` only.
        """
        wanted = None
        equal = {"concept": concept, "modality": modality, "method": method}
        conditions = [pc.field(name) == value for name, value in equal.items() if value is not None]
        if samples is not None:
            conditions.append(pc.field("sample").isin(pa.array(samples, pa.string())))
        if top is not None:
            conditions.append(pc.field("rank") <= top)
        for condition in conditions:
            wanted = condition if wanted is None else wanted & condition
        return self._read("neurons", NEURONS, wanted)

    def words(self, neurons: Iterable[tuple[int, int]]) -> dict[tuple[int, int], str]:
        """The words of those of these neurons, (layer, unit), that neurons.parquet lists.

        It reads no further than needed.

        Raises:
            StoreError: a file is damaged.
        """
        missing = set(neurons)
        found: dict[tuple[int, int], str] = {}
        for path in self.files("neurons"):
            for table in _rows(path, _PLACES, None):
                if not missing:
                    return found
                codes = pa.array([(layer << 32) + unit for layer, unit in missing], pa.int64())
                at = pc.add(pc.multiply(table["layer"].cast(pa.int64()), 1 << 32), table["unit"])
                for row in table.filter(pc.is_in(at, codes)).to_pylist():
                    found[row["layer"], row["unit"]] = row["words"] or ""
                missing -= set(found)
        return found

    @cached_property
    def done(self) -> frozenset[int]:
        """Index of every sample that has a row, errors included: what a resumed run leaves out."""
        return frozenset(self.samples["index"].tolist())

    @cached_property
    def keys(self) -> tuple[Key, ...]:
        """Concept, modality and method of every sum of scores."""
        found: set[Key] = set()
        for path in self.files("scores"):
            with open_sums(path) as file:
                found.update(sum_keys(file.keys()))
        return tuple(sorted(found))

    def scores(self, concept: str, modality: str, method: str) -> MeanScores:
        """Mean scores of a concept.

        Raises:
            StoreError: the run has none, or they are damaged.
        """
        key, total = (concept, modality, method), None
        for path in self.files("scores"):
            with open_sums(path) as file:
                if key in sum_keys(file.keys()):
                    found = read_sum(file, key)
                    total = found if total is None else total + found
        if total is None or total.count < 1:
            hint = nearest("|".join(key), ("|".join(known) for known in self.keys))
            raise StoreError(f"{self.folder} has no scores of {'|'.join(key)}: {hint}")
        return MeanScores(
            (total.scores / total.count).astype(np.float32),
            (total.activations / total.count).astype(np.float32),
            total.count,
        )

    def image(self, path: str) -> Path:
        """Where a picture of samples.parquet lies.

        Raises:
            StoreError: the path leads out of the run folder.
        """
        whole = (self.folder / path).resolve()
        if not whole.is_relative_to(self.folder.resolve()):
            raise StoreError(f"{path!r} leads out of the run folder {self.folder}")
        return whole

    def files(self, kind: shards.Kind) -> list[Path]:
        """The files that together hold a table: the merged one, or before the end of the run its shards."""
        merged = {"samples": SAMPLES_FILE, "neurons": NEURONS_FILE, "scores": SCORES_FILE}[kind]
        path = self.folder / merged
        return [path] if path.is_file() else [shard.path for shard in shards.committed(self.folder, kind)]

    def _read(self, kind: shards.Kind, schema: pa.Schema, wanted: pc.Expression | None) -> DataFrame:
        files = self.files(kind)
        if kind == "neurons" and files != [self.folder / NEURONS_FILE]:
            schema = NEURON_SHARDS
        parts = [_rows(path, schema, wanted) for path in files]
        table = pa.concat_tables([schema.empty_table(), *(part for group in parts for part in group)])
        frame = table.to_pandas()
        if "index" in frame:
            frame = frame.sort_values("index", kind="stable", ignore_index=True)
        return frame.drop(columns="index") if schema is NEURON_SHARDS else frame


#: The columns that tell the words of a neuron.
_PLACES = pa.schema([NEURONS.field(name) for name in ("layer", "unit", "words")])


def _rows(path: Path, schema: pa.Schema, wanted: pc.Expression | None) -> Iterator[pa.Table]:
    """The wanted rows of a parquet file, a part at a time.

    Raises:
        StoreError: it is damaged, lacks a column, or holds other types.
    """
    with shards.open_parquet(path) as file:
        there = [name for name in schema.names if name in file.schema_arrow.names]
        for batch in shards.read_batches(path, file, there):
            table = conform(pa.Table.from_batches([batch]), schema, where=path)
            yield table if wanted is None else table.filter(wanted)
