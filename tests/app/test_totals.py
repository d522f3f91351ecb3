"""The cost of a run, added up over processes that did different amounts of work."""

from __future__ import annotations

import pytest
import torch

from nam.app.totals import STAGES, RunTotals
from nam.attribution import Attributor
from nam.clock import Clock
from nam.mllm.gill import GILL
from nam.reduction.nam import Nam
from nam.relevance.gradient import GradientRelevance
from nam.segmenter.whole import WholeSegmenter


def measured(*, generate: float, relevance: float, samples: int, answers: int, host: int) -> RunTotals:
    clock = Clock()
    clock.seconds = {"generate": generate, "relevance": relevance}
    clock.count("samples", samples)
    clock.count("answers", answers)
    totals = RunTotals()
    totals.update(clock, {"host": host})
    return totals


def test_uneven_processes_add_up() -> None:
    one = measured(generate=2.0, relevance=1.0, samples=5, answers=5, host=100)
    two = measured(generate=1.0, relevance=0.5, samples=2, answers=1, host=3 * 2**40)
    whole = RunTotals()
    for name, reduction in one._reductions.items():
        # What torchmetrics does with the states that it gathers from the processes.
        states = torch.stack([getattr(one, name), getattr(two, name)])
        setattr(whole, name, reduction(states))  # type: ignore[operator, misc]
    whole._update_count = 1
    found = whole.compute()
    assert found.processes == 2
    assert found.seconds == {"generate": 3.0, "relevance": 1.5}
    assert found.counts == {"samples": 7, "answers": 6, "pictures": 0}
    assert found.peak_memory == {"host": 3 * 2**40}
    assert found.over_generation == pytest.approx(1.5)


def test_a_run_that_generated_nothing_has_no_ratio() -> None:
    found = measured(generate=0.0, relevance=0.0, samples=0, answers=0, host=1).compute()
    assert found.over_generation is None
    assert found.seconds == {}
    # Samples that cannot be asked take a moment, in which nothing is generated.
    failed = measured(generate=1e-6, relevance=1e-5, samples=3, answers=0, host=1)
    assert failed.compute().over_generation is None


def test_every_stage_that_is_timed_is_counted(shared_gill: GILL) -> None:
    clock = Clock()
    run = Attributor(
        mllm=shared_gill, segmenter=WholeSegmenter(), relevance=GradientRelevance(), methods={"nam": Nam()}
    )
    run([], clock=clock)
    assert set(clock.seconds) == set(STAGES)
