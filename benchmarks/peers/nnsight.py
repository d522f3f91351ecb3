"""nnsight: activations read and written inside a trace."""

from __future__ import annotations

from collections.abc import Sequence

from nnsight import NNsight, save
from torch import Tensor

from benchmarks.peers.common import Read, Scaled, Task, main, scale


def build(task: Task) -> tuple[Read, Scaled]:
    """The two functions, of the model wrapped once."""
    model = NNsight(task.model)
    blocks = model.model.decoder.layers

    def read(ids: Tensor) -> Sequence[Tensor]:
        with model.trace(input_ids=ids, use_cache=False):
            found = save([block.fc2.input for block in blocks])
        return found

    def scaled(ids: Tensor, factors: Sequence[Tensor | None]) -> Tensor:
        with model.trace(input_ids=ids, use_cache=False):
            for block, mine in zip(blocks, factors, strict=True):
                if mine is not None:
                    block.fc2.input = scale(block.fc2.input, mine)
            logits = model.output.logits.save()
        return logits

    return read, scaled


if __name__ == "__main__":
    main("nnsight", build)
