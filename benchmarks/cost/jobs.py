"""What is measured: every method of this project."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from benchmarks.cost.shape import MANY, Case
from nam.app.config import group_options
from nam.options import option
from nam.reduction.base import contexts_of

if TYPE_CHECKING:
    from nam.reduction.base import Method

#: Largest ratios to a bare forward pass, for one target and for many; a kind of method or a method by name.
TARGETS = {
    "direct": {1: 0.80, MANY: 1.10},
    "backward": {1: 1.60},
    "ablation": {1: 2.0},
    "ig": {1: 60.0},
}

#: Methods that are there to be beaten: nobody waits for them.
FLOORS = ("random", "random_same_layer")

#: Methods that go back through the model once a layer.
MANY_PASSES = ("atp_star",)

#: Options for methods whose defaults are meant for smaller models.
OPTIONS: dict[str, dict[str, Any]] = {"ablation": {"neurons": 64}, "ce": {"group": 1024, "draws": 1}}

#: Further options that are measured, with the largest ratio that is wanted.
EVERYWHERE = ({"neurons": 64, "positions": "all"}, 10.0)


@dataclass(frozen=True, eq=False)
class Job:
    """Something to measure.

    Attributes:
        name: What the table calls it.
        count: Targets that it attributes.
        run: Gives the scores of every neuron for each target, (L, d) each.
        target: Largest ratio to a bare forward pass that is wanted; None for no target.
        direct: Whether it needs one forward pass and no more.
        one_pass: Whether it needs one forward pass, and one backward at most.
        slow: Whether it runs the model many times.
    """

    name: str
    count: int
    run: Callable[[], Sequence[Tensor]]
    target: float | None = None
    direct: bool = False
    one_pass: bool = False
    slow: bool = False

    @property
    def label(self) -> str:
        """The name with the number of targets."""
        return f"{self.name}, {self.count} target{'s' if self.count > 1 else ''}"


def our_jobs(case: Case) -> Iterator[Job]:
    """Every method of `configs/reduction`, from the finished answer to scores; direct ones also for many."""
    for name in group_options("reduction"):
        yield from _jobs_of(case, name, OPTIONS.get(name, {}))
    options, target = EVERYWHERE
    yield from _jobs_of(case, "ablation", options, target=target)


def _jobs_of(
    case: Case, name: str, options: Mapping[str, Any], *, target: float | None = None
) -> Iterator[Job]:
    method: Method = option("reduction", name, **options)
    needs = method.needs
    direct = not (needs.backward or needs.rerun)
    one_pass = direct or (needs.backward and not needs.rerun and name not in MANY_PASSES)
    wanted = TARGETS.get(name, TARGETS["direct"] if direct else TARGETS["backward"] if one_pass else {})
    wanted = {} if name in FLOORS else wanted
    label = f"nam: {name}" + "".join(f" ({key}={value})" for key, value in options.items())
    for count in (1, MANY) if direct else (1,):
        yield Job(
            label,
            count,
            attribution(case, method, count),
            target=wanted.get(count) if target is None else target,
            direct=direct,
            one_pass=one_pass,
            slow=not one_pass,
        )


def attribution(case: Case, method: Method, count: int) -> Callable[[], list[Tensor]]:
    """Scores of some targets by a method, as `nam.attribute` computes them."""
    targets = case.targets(count)

    def run() -> list[Tensor]:
        generations = [case.generation] * count
        contexts = contexts_of(case.mllm, generations, targets, later=method.needs.backward)
        return method.score_batch(contexts)

    return run
