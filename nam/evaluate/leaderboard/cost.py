"""What every method costs: time over a bare forward pass and over the generation, and peak memory."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import ClassVar

import torch

from nam.checks import whole
from nam.errors import ConfigError
from nam.evaluate.leaderboard.base import Bench, Part
from nam.evaluate.leaderboard.cases import Case, target_of
from nam.evaluate.leaderboard.table import NO_REGION, Figure
from nam.reduction.base import contexts_of
from nam.relevance.base import Relevance

#: The row of the provider that takes a region to the hidden states, which every method with a region needs.
RELEVANCE = "relevance"


@dataclass(frozen=True, kw_only=True)
class Cost(Part):
    """Times of one target by itself, each next to a bare replay of the same answer.

    Attributes:
        prompts: Of each modality.
        repeats: Pairs of runs; the median of their ratios counts.
    """

    notes: ClassVar = {
        "time/forward": "time over a bare forward pass over the answer, reading activations included, the "
        "relevance of a picture not",
        "time/generation": "time over answering the prompt, picture included",
        "peak_mib": "most memory held beyond what was held before, in MiB",
    }

    prompts: int = 2
    repeats: int = 5

    def __post_init__(self) -> None:
        for name in ("prompts", "repeats"):
            whole(f"evaluate.parts.cost.{name}", getattr(self, name), least=1, error=ConfigError)

    def measure(self, bench: Bench) -> list[Figure]:
        found = []
        for modality in ("text", "image"):
            cases = bench.chosen(modality, self.prompts)
            advance = bench.tell(f"cost: {modality}", len(cases))
            for case in cases:
                found += self._case(bench, case)
                advance(1)
        return found

    def _case(self, bench: Bench, case: Case) -> list[Figure]:
        mllm, generation, device = bench.mllm, case.work.answer, bench.mllm.device
        answer = _answering(bench, case)
        generating = median(seconds(answer, device) for _ in range(self.repeats))

        @torch.no_grad()
        def forward() -> None:
            mllm.replay([generation])

        forward()
        found = []
        for method, run in _runs(bench, case).items():
            run()  # what is looked up once for a model is not this answer's cost
            pairs = [(seconds(forward, device), seconds(run, device)) for _ in range(self.repeats)]
            spent = median(mine for _, mine in pairs)
            figures = {
                "time/forward": median(mine / bare for bare, mine in pairs),
                "time/generation": spent / generating,
                "peak_mib": peak_bytes(run, device) / 2**20,
            }
            found += [
                Figure(case.id, case.concept.name, method, case.modality, NO_REGION, measure, value)
                for measure, value in figures.items()
            ]
        return found


def _answering(bench: Bench, case: Case) -> Callable[[], None]:
    drawn = case.modality == "image"

    def answer() -> None:
        bench.mllm.generate_batch(
            [case.work.item.sample],
            max_new_tokens=bench.attributor.max_new_tokens,
            draw=bench.attributor.draw if drawn else False,
        )

    return answer


def _runs(bench: Bench, case: Case) -> dict[str, Callable[[], object]]:
    """What is timed, by method; each reads the answer anew."""
    mllm, generation = bench.mllm, case.work.answer
    runs: dict[str, Callable[[], object]] = {}
    for name, method in bench.attributor.methods.items():
        target = target_of(case.work, case.modality, signed=method.needs.signed)

        def score(method=method, target=target) -> None:  # type: ignore[no-untyped-def]
            method.score(contexts_of(mllm, [generation], [target], later=True)[0])

        runs[name] = score
    if case.modality == "image":
        provider: Relevance = bench.attributor.relevance
        region = torch.from_numpy(case.region)
        runs[RELEVANCE] = lambda: provider.batch(mllm, [generation], [region])
    return runs


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Wall time of a call, with the accelerator's work done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """The most bytes of tensors that a call holds at once beyond what was held before it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with _quiet_stderr(), torch.autograd.profiler.profile(profile_memory=True) as profile:
        run()
    held = most = 0
    events = [one for one in profile.kineto_results.events() if one.name() == "[memory]"]
    for event in sorted(events, key=lambda one: one.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Without what the profiler's library writes there at every start and stop, past Python's own stderr."""
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)
