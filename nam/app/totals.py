"""The numbers of a whole run, over all its processes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from nam.clock import Clock
from nam.store import Run
from nam.store.rows import MODALITIES

#: The stages of a sample, as `nam.attribution` times them.
STAGES = ("generate", "replay", "segment", "relevance", "reduce")

#: What is counted on the way.
COUNTS = ("samples", "answers", "pictures")

#: Where memory is held.
PLACES = ("host", "device")


class Totals(NamedTuple):
    """A run, or the part of it since it was resumed.

    Attributes:
        processes: Their number.
        seconds: Of each stage that took any, added up over the processes.
        counts: Samples that were done, answers that were generated and pictures that were drawn.
        peak_memory: The most bytes that any one process held, by place.
    """

    processes: int
    seconds: dict[str, float]
    counts: dict[str, int]
    peak_memory: dict[str, int]

    @property
    def over_generation(self) -> float | None:
        """Time of all stages over that of generating; None where nothing was generated.

        Where activations are recorded while generating (`record=true`), that is part of generating.
        """
        generate = self.seconds.get("generate", 0.0)
        return sum(self.seconds.values()) / generate if generate and self.counts["answers"] else None


class RunTotals(Metric):
    """Adds up what each process measured; they meet in `compute` alone, when all have come to the end."""

    full_state_update = False
    processes: Tensor
    seconds: Tensor
    counts: Tensor
    memory: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("processes", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("seconds", torch.zeros(len(STAGES)), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(len(COUNTS), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("memory", torch.zeros(len(PLACES), dtype=torch.int64), dist_reduce_fx="max")

    def update(self, clock: Clock, memory: Mapping[str, int]) -> None:
        """Take over what one process measured.

        Args:
            clock: Of its stages and counts.
            memory: Its peak, in bytes by place, as `nam.store.peak_memory` tells it.
        """
        self.processes += 1
        self.seconds += torch.tensor([clock.seconds.get(stage, 0.0) for stage in STAGES]).to(self.seconds)
        self.counts += torch.tensor([int(clock.counts.get(name, 0)) for name in COUNTS]).to(self.counts)
        held = torch.tensor([memory.get(place, 0) for place in PLACES]).to(self.memory)
        self.memory = torch.maximum(self.memory, held)

    def compute(self) -> Totals:
        """The totals; under a process group, every process has to ask for them."""
        return Totals(
            processes=int(self.processes),
            seconds=_named(STAGES, self.seconds),
            counts=dict(zip(COUNTS, self.counts.tolist(), strict=True)),
            peak_memory=_named(PLACES, self.memory),
        )


def metrics_of(folder: str | Path, totals: Totals, *, seconds: float) -> dict[str, Any]:
    """metrics.json: samples and errors of the run, and the cost of this part of it.

    Args:
        folder: The run folder, whose shards are written.
        totals: Of every process.
        seconds: That the run took, loading included.
    """
    samples = Run(folder).samples
    done = max(1, totals.counts["samples"])
    metrics: dict[str, Any] = {
        "samples": len(samples),
        "errors": int((samples["status"] == "error").sum()),
        "pictures": int(samples["picture"].notna().sum()),
        "processes": totals.processes,
        "seconds": {"run": seconds, **totals.seconds},
        "seconds_per_sample": {stage: spent / done for stage, spent in totals.seconds.items()},
        "peak_memory": totals.peak_memory,
    }
    for modality in MODALITIES:
        status = samples[f"{modality}_status"]
        if modality in ("audio", "video") and status.isna().all():
            continue
        metrics[modality] = {"ok": int((status == "ok").sum()), "error": int((status == "error").sum())}
    if totals.over_generation is not None:
        metrics["time_over_generation"] = totals.over_generation
    return metrics


def _named(names: tuple[str, ...], values: Tensor) -> dict[str, Any]:
    """The values that are not 0, by name."""
    return {name: value for name, value in zip(names, values.tolist(), strict=True) if value}
