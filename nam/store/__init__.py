"""The run folder: `RunWriter` writes it, `Run` reads it, `schema` says what it holds."""

from nam.store.files import StoreError
from nam.store.provenance import peak_memory, run_manifest
from nam.store.reader import MeanScores, Run
from nam.store.rows import SampleResult, rank_neurons
from nam.store.schema import SCHEMA_VERSION
from nam.store.writer import RunWriter

__all__ = [
    "SCHEMA_VERSION",
    "MeanScores",
    "Run",
    "RunWriter",
    "SampleResult",
    "StoreError",
    "peak_memory",
    "rank_neurons",
    "run_manifest",
]
