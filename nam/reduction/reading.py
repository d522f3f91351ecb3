"""What is recorded at the positions of targets: at once, or when it is first asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from nam.hooks import Recorded, Recorder

if TYPE_CHECKING:
    from nam.mllm.base import MLLM
    from nam.types import Generation


def read(mllm: MLLM, generations: Sequence[Generation], where: Sequence[Sequence[int]]) -> list[Recorded]:
    """What a replay without gradients reads at some positions of each generation.

    A generation that comes several times is replayed once, and none further than its last position asks for.

    Args:
        mllm: The model.
        generations: What it answered.
        where: Ascending positions of each, at least one.
    """
    rows: dict[int, int] = {}
    different: list[Generation] = []
    wanted: list[set[int]] = []
    for generation, positions in zip(generations, where, strict=True):
        if id(generation) not in rows:
            rows[id(generation)] = len(rows)
            different.append(generation)
            wanted.append(set())
        wanted[rows[id(generation)]] |= set(positions)
    recorder = Recorder(mllm, where=[sorted(positions) for positions in wanted])
    cut = [one.until(max(positions) + 1) for one, positions in zip(different, wanted, strict=True)]
    # What is read may take part in gradients, which a tensor of inference mode cannot.
    with torch.inference_mode(False), torch.no_grad():
        mllm.replay(cut, record=recorder)
        return [
            recorder.recorded[rows[id(generation)]].at(positions)
            for generation, positions in zip(generations, where, strict=True)
        ]


class Reading:
    """What is recorded at some positions of one generation, once it is there.

    Args:
        recorded: What was read; None if it has yet to be.
    """

    def __init__(self, recorded: Recorded | None = None) -> None:
        self._recorded = recorded
        self._others: list[Reading] = []
        self._asked: tuple[MLLM, Generation, Sequence[int]] | None = None

    @classmethod
    def later(
        cls, mllm: MLLM, generations: Sequence[Generation], where: Sequence[Sequence[int]]
    ) -> list[Reading]:
        """Readings that one `read` (arguments there) fills when one of them is first asked for, but for those
        that a method's own forward pass has filled until then."""
        together = [cls() for _ in generations]
        for one, generation, positions in zip(together, generations, where, strict=True):
            one._others, one._asked = together, (mllm, generation, positions)
        return together

    def __call__(self) -> Recorded:
        """What was recorded, which is read now if it has to be."""
        if self._recorded is not None:
            return self._recorded
        left = [one for one in self._others if one._asked is not None]
        asked = [one._asked for one in left if one._asked is not None]
        found = read(asked[0][0], [one[1] for one in asked], [one[2] for one in asked])
        for one, recorded in zip(left, found, strict=True):
            one.fill(recorded)
        return found[left.index(self)]

    @property
    def there(self) -> bool:
        """Whether it was read."""
        return self._recorded is not None

    def fill(self, recorded: Recorded) -> None:
        """Hold what a forward pass has read at its positions."""
        self._recorded, self._others, self._asked = recorded, [], None
