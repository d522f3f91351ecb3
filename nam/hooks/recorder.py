"""Reading: the activations and the residual stream at a few positions, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from nam.errors import InputError
from nam.hooks.sites import SiteHooks, Visit, Where

if TYPE_CHECKING:
    from nam.mllm.base import MLLM


@dataclass(frozen=True, eq=False)
class Recorded:
    """What was read of one sample, on the model's device and without a graph.

    Attributes:
        positions: Ascending positions in `Generation.token_ids`, (P,).
        activations: What enters the value linear of each layer that was asked for, (L, P, d) float32 (float64
            for such a model).
        stream: What enters the final norm, (P, H) in the same precision; None where the model has no norm.
    """

    positions: tuple[int, ...]
    activations: Tensor
    stream: Tensor | None

    def at(self, positions: Sequence[int]) -> Recorded:
        """Some of the positions: a view where they follow one another, else a copy.

        Raises:
            InputError: one of them was not recorded.
        """
        if tuple(positions) == self.positions:
            return self
        known = {position: index for index, position in enumerate(self.positions)}
        missing = [position for position in positions if position not in known]
        if missing:
            raise InputError(f"position {missing[0]} was not recorded; recorded are {list(self.positions)}")
        index = [known[position] for position in positions]
        rows: slice | list[int] = index
        if index and index == list(range(index[0], index[0] + len(index))):
            rows = slice(index[0], index[0] + len(index))
        stream = None if self.stream is None else self.stream[rows]
        return Recorded(tuple(positions), self.activations[:, rows], stream)


class Recorder(SiteHooks):
    """Records the forward passes of one `generate` or one `replay`.

    >>> recorder = Recorder(mllm)                               # doctest: +SKIP
    >>> out = mllm.generate("what says meow?", record=recorder) # doctest: +SKIP
    >>> recorder.recorded[0].activations.shape                  # doctest: +SKIP

    Hooks of an `Intervention` that was entered before are seen: what is recorded is what it wrote.

    Args:
        mllm: Whose neurons are read.
        where: Positions to read; given per sample, every one of them must come by.
        layers: Whose activations are read, in this order; None for all of them, () for the stream alone.

    Raises:
        InputError: the model has no such layer, a layer is named twice, or there is nothing to read.
    """

    def __init__(self, mllm: MLLM, *, where: Where = "answer", layers: Sequence[int] | None = None) -> None:
        super().__init__(mllm, where=where)
        known = range(len(mllm.ffn_sites))
        self.layers = tuple(known if layers is None else layers)
        if not set(self.layers) <= set(known) or len(set(self.layers)) < len(self.layers):
            expected = f"layers must be different ones of 0 to {len(known) - 1}"
            raise InputError(f"{expected}, got {list(self.layers)}")
        if not self._modules():
            raise InputError(f"there is nothing to record: no layers, and {mllm.name} has no final norm")
        self._read: dict[int, list[Tensor]] = {}
        self._keys: list[tuple[int, int]] = []
        self._recorded: tuple[Recorded, ...] | None = None

    @property
    def recorded(self) -> tuple[Recorded, ...]:
        """What was read, one a sample, once the call has ended.

        Raises:
            InputError: nothing was recorded.
        """
        if self._recorded is None:
            raise InputError("nothing was recorded: run generate or replay with record=this recorder")
        return self._recorded

    def _modules(self) -> Sequence[tuple[int, nn.Module]]:
        sites, norm = self.mllm.ffn_sites, self.mllm.final_norm
        chosen: list[tuple[int, nn.Module]] = [(layer, sites[layer].linear) for layer in self.layers]
        return chosen if norm is None else [*chosen, (len(sites), norm)]

    def __enter__(self) -> Self:
        super().__enter__()
        self._read, self._keys, self._recorded = {}, [], None
        return self

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        read, self._read, keys, self._keys = self._read, {}, self._keys, []
        if exception[:1] in ((), (None,)):
            self._recorded = _by_sample(read, keys, self.where, layers=self.layers, device=self.mllm.device)

    def _visit(self, visit: Visit) -> None:
        values = visit.values.detach()
        self._read.setdefault(visit.layer, []).append(
            values if values.dtype.itemsize >= 4 else values.float()
        )
        if visit.layer == next(iter(self._read)):  # every module sees the same tokens
            self._keys += zip(visit.rows, visit.positions, strict=True)


def _by_sample(
    read: dict[int, list[Tensor]],
    keys: list[tuple[int, int]],
    where: Where,
    *,
    layers: Sequence[int],
    device: torch.device,
) -> tuple[Recorded, ...]:
    """What each layer saw, in order of time, as what each sample had, in order of position, on one device."""
    if len(set(keys)) < len(keys):
        raise InputError("a position was read twice: enter a recorder for one generate or replay at a time")
    order = sorted(range(len(keys)), key=keys.__getitem__)
    positions: dict[int, list[int]] = {}
    for row, position in (keys[index] for index in order):
        positions.setdefault(row, []).append(position)
    if not isinstance(where, str):
        for row, wanted in enumerate(where):
            missing = sorted(set(wanted) - set(positions.get(row, [])))
            if missing:
                raise InputError(f"sample {row} has no position {missing[0]} to record")
    if not keys:
        return ()
    # One copy brings each layer into order; a sample's part is a view.
    index = torch.tensor(order, device=device)
    first = next(iter(read.values()))[0]
    width = read[layers[0]][0].shape[1] if layers else 0
    buffer = first.new_empty((len(layers), len(keys), width), device=device)
    for place, layer in enumerate(layers):
        torch.index_select(torch.cat(read.pop(layer)).to(device), 0, index, out=buffer[place])
    # What is left is the final norm's.
    streams = next((torch.cat(one).to(device)[index] for one in read.values()), None)
    found, start = [], 0
    for at in positions.values():
        part, start = slice(start, start + len(at)), start + len(at)
        stream = None if streams is None else streams[part]
        found.append(Recorded(tuple(at), buffer[:, part], stream))
    return tuple(found)
