"""pyvene: functions as interventions.

It writes in place, which autograd allows behind the first FFN linear and not behind the ReLU; a factor that
is not negative does the same on either side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pyvene import IntervenableModel
from torch import Tensor

from benchmarks.peers.common import Read, Scaled, Task, main, scale


def build(task: Task) -> tuple[Read, Scaled]:
    """The two functions, each with a model that is wrapped once."""
    layers = range(len(task.blocks))
    found: list[Tensor] = []
    now: list[Tensor | None] = []

    def keep(base: Tensor, source: object) -> Tensor:
        found.append(base)
        return base

    def change(layer: int) -> Callable[[Tensor, object], Tensor]:
        def scale_it(base: Tensor, source: object) -> Tensor:
            mine = now[layer]
            return base if mine is None else scale(base, mine)

        return scale_it

    reads = [{"component": f"model.decoder.layers[{i}].fc2.input", "intervention": keep} for i in layers]
    writes = [
        {"component": f"model.decoder.layers[{i}].fc1.output", "intervention": change(i)} for i in layers
    ]
    reader, writer = IntervenableModel(reads, task.model), IntervenableModel(writes, task.model)

    def read(ids: Tensor) -> Sequence[Tensor]:
        found.clear()
        reader({"input_ids": ids, "use_cache": False})
        return found

    def scaled(ids: Tensor, factors: Sequence[Tensor | None]) -> Tensor:
        now[:] = factors
        return writer({"input_ids": ids, "use_cache": False})[1].logits

    return read, scaled


if __name__ == "__main__":
    main("pyvene", build)
