"""Writing the results of a Trainer's predict loop into the run folder, batch by batch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from nam.errors import ConfigError
from nam.store.claim import check_claim, refuse_writers
from nam.store.rows import SampleResult, WordLookup
from nam.store.writer import RunWriter


class StoreWriter(Callback):
    """Takes the `SampleResult`s that `predict_step` returns; the Trainer need not keep them.

    Every process writes files of its own, and no process waits for another in the loop. After an exception or
    Ctrl-C what was finished is in the folder. Once all processes have called `close`, one calls `finish`.

    Args:
        folder: The run folder.
        manifest: As `nam.store.run_manifest` makes it.
        words: Words of neurons.
        top: Rows of neurons.parquet per sample, concept, modality and method.
        write_interval: Batches between two writes: a kill loses at most these.
        resume: Go on with an interrupted run.
    """

    def __init__(
        self,
        *,
        folder: str | Path,
        manifest: Mapping[str, Any],
        words: WordLookup | None = None,
        top: int = 1000,
        write_interval: int = 1,
        resume: bool = False,
    ) -> None:
        for name, value in (("top", top), ("write_interval", write_interval)):
            if value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        self._options: dict[str, Any] = {
            "folder": folder, "manifest": manifest, "words": words, "top": top, "resume": resume,
        }  # fmt: skip
        self._interval = write_interval
        self.writer: RunWriter | None = None

    def check(self, *, rank: int) -> None:
        """Refuse the folder before anything is written into it.

        Args:
            rank: Of this process.

        Raises:
            StoreError: see `nam.store.claim`.
        """
        folder, manifest, resume = (self._options[name] for name in ("folder", "manifest", "resume"))
        check_claim(Path(folder), manifest, rank=rank, resume=resume)
        if rank == 0:  # the others cannot have begun to write: they wait for it in `setup`
            refuse_writers(Path(folder))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        trainer.strategy.barrier("run folder")  # every process has seen what was done before any goes on
        self.writer = RunWriter(**self._options, rank=trainer.global_rank)

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        results: list[SampleResult] = outputs
        for result in results:
            self._open.add(result)
        if (batch_idx + 1) % self._interval == 0:
            self._open.flush()

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._open.flush()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self.writer is not None:
            self.writer.__exit__(type(exception), exception, exception.__traceback__)

    def close(self) -> None:
        """Write what waits and let go of the folder, in processes other than the first."""
        self._open.close()

    def finish(self, *, metrics: Mapping[str, Any], **manifest: Any) -> None:
        """Merge what all processes wrote; see `RunWriter.finish`."""
        self._open.finish(metrics=metrics, **manifest)

    @property
    def _open(self) -> RunWriter:
        if self.writer is None:
            raise RuntimeError("the run folder is opened when a Trainer sets up")
        return self.writer
