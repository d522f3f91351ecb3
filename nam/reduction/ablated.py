"""What the last hidden states become when one neuron at a time is ablated: exact, and many at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from nam.hooks import Intervention, Recorder, Visit
from nam.mllm.resume import Trace, Write, ffns_add_up, require_same, trace
from nam.reduction.constants import once
from nam.types import Neuron, NeuronSet

if TYPE_CHECKING:
    from nam.mllm.base import MLLM
    from nam.reduction.base import Context

#: Where a neuron is ablated: at the target's positions, or at every position of the sequence.
Positions = Literal["target", "all"]


@dataclass(frozen=True, eq=False)
class Ablated:
    """Last hidden states, after the final norm, with each of n neurons ablated by itself.

    Attributes:
        layers, units: Which neurons, ascending: (n,) int64 on the CPU.
        hidden: At the target's P positions, (n, P, H), in the model's precision.
        plain: With none ablated, (P, H).
    """

    layers: Tensor
    units: Tensor
    hidden: Tensor
    plain: Tensor

    def lost(self, directions: Tensor) -> Tensor:
        """What sum <direction, h> loses over the target's positions, divided by their number.

        Args:
            directions: After the final norm, (P, H).

        Returns:
            (n,), in the precision of the directions and where they are.
        """
        lost = (self.plain.to(directions) - self.hidden.to(directions)) * directions
        return lost.sum((1, 2)) / len(directions)


@torch.no_grad()
def ablate(
    context: Context,
    neurons: NeuronSet | None = None,
    *,
    baseline: Tensor | None = None,
    positions: Positions = "target",
    batch: int = 512,
    resume: bool = True,
) -> Iterator[Ablated]:
    """Ablate each neuron by itself and compute everything that follows from it.

    The first item holds the neurons that are at their baseline already: nothing follows, and `hidden` is
    `plain`, expanded. It comes also when there is none.

    Args:
        context: The answer, and the target's positions.
        neurons: Which; None for all.
        baseline: What an activation becomes, (L, d); None for 0.
        positions: Where it does.
        batch: Tokens that are computed together.
        resume: Go on from the layer of the neuron, at the positions from the first ablated to the target's
            last, with the keys and values of the earlier ones; or replay all of it with hooks, which any
            model can and which takes a forward pass a neuron.

    Raises:
        InputError: the model has no such neuron.
        ModelError: the model cannot go on from a layer, or what it then computes is not what it computes at
            once.
    """
    mllm, wanted = context.mllm, context.target.positions
    where = wanted if positions == "target" else tuple(range(wanted[-1] + 1))
    neurons = _all_neurons(mllm) if neurons is None else neurons
    activations, plain, traced = _read(context, neurons, where, resume=resume)
    still, rows = _Rows.of(neurons, activations, baseline).split()
    yield Ablated(still.layers, still.units, plain.expand(len(still), *plain.shape), plain)
    size = max(1, batch // (wanted[-1] + 1 - (0 if traced is None else traced.start)))
    for start in range(0, len(rows), size):
        part = rows.at(torch.arange(start, min(start + size, len(rows))))
        if traced is None:
            hidden = _replayed(context, part, where)
        else:
            hidden = _resumed(context, part, where, traced, check=plain if start == 0 else None)
        yield Ablated(part.layers, part.units, hidden, plain)


def ablated_hidden(
    context: Context,
    neurons: NeuronSet,
    *,
    baseline: Tensor | None = None,
    positions: Positions = "target",
    batch: int = 512,
    resume: bool = True,
) -> Ablated:
    """All items of `ablate` (arguments and errors there) as one, in the order of `neurons`."""
    found = list(ablate(context, neurons, baseline=baseline, positions=positions, batch=batch, resume=resume))
    layers, units = (torch.cat([getattr(item, name) for item in found]) for name in ("layers", "units"))
    order = torch.argsort(layers * (int(units.max()) + 1 if len(units) else 1) + units)
    hidden = torch.cat([item.hidden for item in found])[order.to(found[0].plain.device)]
    return Ablated(layers[order], units[order], hidden, found[0].plain)


def _read(
    context: Context, neurons: NeuronSet, where: Sequence[int], *, resume: bool
) -> tuple[Tensor, Tensor, Trace | None]:
    """Activations (n, A) of the neurons, last hidden states (P, H), and what to go on from, by one replay.

    It fills the context's reading by the way, where there is none yet.
    """
    mllm, wanted = context.mllm, context.target.positions
    dtype = torch.promote_types(mllm.dtype, torch.float32)
    found = [torch.empty(0, len(where), dtype=dtype, device=mllm.device)]

    def keep(visit: Visit) -> Tensor:
        found.append(visit.values.T.to(found[0]))
        return visit.values

    recorder = None if context.reading.there else Recorder(mllm, where=[wanted])
    stop, traced = wanted[-1] + 1, None
    watch = Intervention(mllm, change=keep, neurons=neurons, where=[where])
    # What is read may take part in gradients, which a tensor of inference mode cannot.
    with torch.inference_mode(False), torch.no_grad(), watch:
        if resume:
            traced = trace(mllm, context.generation, start=where[0], stop=stop, record=recorder)
            hidden = traced.hidden
        else:
            hidden = mllm.replay([context.generation.until(stop)], record=recorder).hidden[0]
    if recorder is not None:
        context.reading.fill(recorder.recorded[0])
    return torch.cat(found), hidden[list(wanted)], traced


@dataclass(frozen=True, eq=False)
class _Rows:
    """Neurons (n,) with how far each is from its baseline at A positions, (n, A), and the baseline, (n,)."""

    layers: Tensor
    units: Tensor
    change: Tensor
    values: Tensor

    def __len__(self) -> int:
        return len(self.layers)

    @classmethod
    def of(cls, neurons: NeuronSet, activations: Tensor, baseline: Tensor | None) -> _Rows:
        layers = torch.tensor([neuron.layer for neuron in neurons], dtype=torch.long)
        units = torch.tensor([neuron.unit for neuron in neurons], dtype=torch.long)
        values = activations.new_zeros(len(layers))
        if baseline is not None:
            values = baseline.to(activations)[layers, units]
        return cls(layers, units, activations - values[:, None], values)

    def at(self, index: Tensor) -> _Rows:
        there = index.to(self.change.device)
        return _Rows(self.layers[index], self.units[index], self.change[there], self.values[there])

    def split(self) -> tuple[_Rows, _Rows]:
        """Those that are at their baseline at every position, and the others."""
        moves = (self.change != 0).any(1).cpu()
        return self.at((~moves).nonzero()[:, 0]), self.at(moves.nonzero()[:, 0])


def _resumed(
    context: Context, rows: _Rows, where: Sequence[int], traced: Trace, *, check: Tensor | None
) -> Tensor:
    """Last hidden states (n, P, H): each layer runs once, for the neurons of all layers before it.

    `check`: what the same way must give where nothing is ablated, (P, H).
    """
    mllm, wanted, first = context.mllm, context.target.positions, int(rows.layers[0])
    adds_up = once(mllm, "ffns add up", lambda: ffns_add_up(traced))
    begin = traced.layers[first].leaving if adds_up else traced.layers[first].entering
    x = begin[None] if check is not None else begin[None][:0]
    at = [position - traced.start for position in where]
    for layer in range(first, len(traced.layers)):
        mine = rows.at((rows.layers == layer).nonzero()[:, 0])
        if not adds_up:
            start = traced.layers[layer].entering.expand(len(mine), -1, -1)
            write = _write(mine, at, skip=len(x))
            x = traced.step(layer, torch.cat([x.to(start.device), start]), write=write)
            continue
        # What a neuron writes is all that changes in its own layer, which is not run again.
        x = x if layer == first else traced.towards(layer, x, start=wanted[0])
        x = torch.cat([x, _without(traced, layer, mine, at)[:, -x.shape[1] :]])
    x = x[:, [position - traced.stop for position in wanted]]  # the window's end alone leaves the last layer
    hidden: Tensor = x if mllm.final_norm is None else mllm.final_norm(x)
    if check is None:
        return hidden
    require_same(hidden[0], check, name=mllm.name)
    return hidden[1:]


def _without(traced: Trace, layer: int, rows: _Rows, at: Sequence[int]) -> Tensor:
    """The residual stream after the neurons' own layer, (n, W, H)."""
    stream, weight = traced.layers[layer].leaving, traced.layers[layer].linear.weight
    vectors = weight[:, rows.units.to(weight.device)].T.to(stream.device, rows.change.dtype)
    change = rows.change.new_zeros(len(rows), len(stream), device=stream.device)
    change[:, at] = rows.change.to(stream.device)
    return (stream.to(change.dtype) - change[..., None] * vectors[:, None]).to(stream.dtype)


def _write(rows: _Rows, at: Sequence[int], *, skip: int) -> Write:
    """Sets each row's own neuron to its baseline, after `skip` rows that are left as they are."""

    def write(values: Tensor) -> Tensor:
        device = values.device
        row = torch.arange(skip, skip + len(rows), device=device)[:, None]
        position = torch.tensor(at, device=device)[None]
        new = values.clone()
        new[row, position, rows.units.to(device)[:, None]] = rows.values.to(values)[:, None]
        return new

    return write


def _replayed(context: Context, rows: _Rows, where: Sequence[int]) -> Tensor:
    """Last hidden states (n, P, H) by hooks and one whole forward pass of n rows."""

    def change(visit: Visit) -> Tensor:
        row = torch.tensor(visit.rows)
        mine = (rows.layers[row] == visit.layer).nonzero()[:, 0]
        new = visit.values.clone()
        new[mine.to(new.device), rows.units[row[mine]].to(new.device)] = rows.values[row[mine]].to(new)
        return new

    mllm, wanted = context.mllm, list(context.target.positions)
    watch = Intervention(mllm, change=change, where=[where] * len(rows))
    return mllm.replay([context.generation.until(wanted[-1] + 1)] * len(rows), record=watch).hidden[:, wanted]


def _all_neurons(mllm: MLLM) -> NeuronSet:
    return NeuronSet(tuple(Neuron(site.layer, unit) for site in mllm.ffn_sites for unit in range(site.width)))
