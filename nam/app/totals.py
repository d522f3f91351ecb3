"""The numbers of a whole run, over all its processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from nam.clock import Clock
from nam.store import Run, peak_memory

#: What attribution costs beyond plain generation.
EXTRA = ("replay", "segment", "relevance", "reduce")


@dataclass(frozen=True)
class Total:
    """One process: seconds of each stage, counts, and the most memory it held in bytes."""

    seconds: dict[str, float]
    counts: dict[str, float]
    memory: dict[str, int]


def gather(clock: Clock) -> list[Total]:
    """What every process measured; every process has to call it."""
    mine = Total(dict(clock.seconds), dict(clock.counts), peak_memory())
    if not (dist.is_available() and dist.is_initialized()):
        return [mine]
    found: list[Total | None] = [None] * dist.get_world_size()
    dist.all_gather_object(found, mine)
    return [total for total in found if total is not None]


def metrics_of(folder: str | Path, totals: Sequence[Total], *, seconds: float) -> dict[str, Any]:
    """metrics.json: samples and errors of the run, and the cost of this part of it.

    Args:
        folder: The run folder, whose shards are written.
        totals: Of every process.
        seconds: That the run took, loading included.
    """
    samples = Run(folder).samples
    stages = _sum([total.seconds for total in totals])
    counts = _sum([total.counts for total in totals])
    done = max(1.0, counts.get("samples", 0.0))
    generate = stages.get("generate", 0.0)
    extra = sum(stages.get(stage, 0.0) for stage in EXTRA)
    metrics: dict[str, Any] = {
        "samples": len(samples),
        "errors": int((samples["status"] == "error").sum()),
        "pictures": int(samples["picture"].notna().sum()),
        "processes": len(totals),
        "seconds": {"run": seconds, **stages},
        "seconds_per_sample": {stage: spent / done for stage, spent in stages.items()},
        "peak_memory": {
            place: max(total.memory.get(place, 0) for total in totals) for place in totals[0].memory
        },
    }
    for modality in ("text", "image"):
        status = samples[f"{modality}_status"]
        metrics[modality] = {"ok": int((status == "ok").sum()), "error": int((status == "error").sum())}
    if generate:
        metrics["time_over_generation"] = (generate + extra) / generate
    return metrics


def _sum(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: sum(part.get(name, 0.0) for part in parts) for name in names}
