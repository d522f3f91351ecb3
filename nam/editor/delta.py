"""A change of some value vectors: computed once, applied and reverted as often as one likes, bit by bit.

A delta holds the original and the edited columns, so that reverting restores and never subtracts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from nam.editor.columns import bits, read_columns, write_columns
from nam.errors import NamError
from nam.mllm.fingerprint import fingerprint
from nam.types import Neuron, NeuronSet

if TYPE_CHECKING:
    from nam.mllm.base import MLLM

#: Neurons that an error names.
_NAMED = 4


class EditError(NamError):
    """An edit that cannot be made, or a delta that does not fit."""


#: The deltas that are applied to each model, oldest first.
_APPLIED: WeakKeyDictionary[MLLM, list[Delta]] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False, kw_only=True)
class Delta:
    """New value vectors of some neurons of one model.

    Attributes:
        neurons: The neurons, n of them.
        original: Their value vectors before, (n, H) in the model's precision, on the CPU.
        edited: Their value vectors after, likewise.
        model: The model's name.
        revision: Fingerprint of the model's language model before any delta (`nam.mllm.fingerprint`).
        manifest: Method, prompts and figures: plain JSON values.
    """

    neurons: NeuronSet
    original: Tensor
    edited: Tensor
    model: str
    revision: str
    manifest: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require_neurons(self.neurons)
        count, shapes = len(self.neurons), (tuple(self.original.shape), tuple(self.edited.shape))
        if shapes[0] != shapes[1] or len(shapes[0]) != 2 or shapes[0][0] != count:
            raise EditError(f"expected two tensors of {count} value vectors (n, H), got {shapes}")
        if self.original.dtype != self.edited.dtype:
            raise EditError(f"original is {self.original.dtype}, edited is {self.edited.dtype}")
        if not bool(self.edited.isfinite().all()):
            raise EditError("the edited value vectors are not finite: raise editor.tau or lower editor.lr")

    @property
    def norm(self) -> float:
        """l2 norm of the change."""
        return float((self.edited.double() - self.original.double()).norm())

    def apply(self, mllm: MLLM) -> None:
        """Write the edited columns into the model.

        Raises:
            EditError: the model is another one, or its columns are not those that the delta was made on.
        """
        self._check_model(mllm)
        why = "the weights were changed since: load it anew"
        if self._shared(applied_deltas(mllm)):
            why = "it overlaps with a delta that is applied: revert that one first, or compose the two"
        self._check_columns(mllm, self.original, why)
        self._write(mllm, self.edited)
        _APPLIED.setdefault(mllm, []).append(self)

    def revert(self, mllm: MLLM) -> None:
        """Write the original columns back, bit by bit.

        Raises:
            EditError: the delta is not applied to this model, or its columns were changed since, as by
                another delta that overlaps: revert that one first.
        """
        deltas = applied_deltas(mllm)
        if self not in deltas:
            raise EditError(f"this delta is not applied to {mllm.name}: there is nothing to revert")
        place = deltas.index(self)
        later = self._shared(deltas[place + 1 :])
        if later:
            raise EditError(
                f"the delta cannot be reverted: one that was applied later overlaps with it in {len(later)} "
                f"neurons ({named(later)}): revert that one first"
            )
        self._check_columns(mllm, self.edited, "the weights were changed by something else since")
        try:
            self._write(mllm, self.original)
        finally:
            del _APPLIED[mllm][place]

    @contextmanager
    def applied(self, mllm: MLLM) -> Iterator[MLLM]:
        """The model with this delta, inside the `with`; reverted on the way out, exceptions included."""
        self.apply(mllm)
        try:
            yield mllm
        finally:
            self.revert(mllm)

    def save(self, path: str | Path) -> Path:
        """Write the delta into one safetensors file; see `nam.editor.delta_file.write_delta`."""
        from nam.editor.delta_file import write_delta

        return write_delta(self, path)

    def _check_model(self, mllm: MLLM) -> None:
        sites = mllm.ffn_sites
        hidden, last = self.original.shape[1], self.neurons.neurons[-1]
        widest = max(neuron.unit for neuron in self.neurons)
        if last.layer >= len(sites) or widest >= sites[0].width or sites[0].linear.out_features != hidden:
            raise EditError(
                f"the delta does not fit: it was made on {self.model} and changes neurons up to layer "
                f"{last.layer}, unit {widest}, of {hidden} dimensions; {mllm.name} has {len(sites)} layers "
                f"of {sites[0].width} neurons of {sites[0].linear.out_features} dimensions"
            )
        found = sites[0].linear.weight.dtype
        if found != self.original.dtype:
            names = [str(dtype).removeprefix("torch.") for dtype in (self.original.dtype, found)]
            raise EditError(
                f"the delta does not fit: it was made in {names[0]}, {mllm.name} is loaded in {names[1]}; "
                f"set mllm.dtype={names[0]}"
            )
        base = base_fingerprint(mllm)
        if base != self.revision:
            raise EditError(
                f"the delta does not fit: it was made on {self.model} with weights {self.revision}, "
                f"{mllm.name} has weights {base}; load that model, or make the edit anew"
            )

    def _shared(self, deltas: Sequence[Delta]) -> list[Neuron]:
        """The neurons of this delta that any of these changes too."""
        return [neuron for neuron in self.neurons if any(neuron in delta.neurons for delta in deltas)]

    def _write(self, mllm: MLLM, columns: Tensor) -> None:
        """Write columns; whatever stops it half-way leaves the original ones."""
        try:
            write_columns(mllm, self.neurons, columns)
        except BaseException:
            write_columns(mllm, self.neurons, self.original)
            raise

    def _check_columns(self, mllm: MLLM, expected: Tensor, why: str) -> None:
        same = bits(read_columns(mllm, self.neurons)).eq(bits(expected)).all(dim=1).tolist()
        changed = [neuron for neuron, equal in zip(self.neurons, same, strict=True) if not equal]
        if changed:
            raise EditError(
                f"{len(changed)} of the delta's {len(self.neurons)} value vectors ({named(changed)}) are not "
                f"as expected in {mllm.name}: {why}"
            )


def difference(
    mllm: MLLM, neurons: NeuronSet, change: Tensor, *, manifest: Mapping[str, Any] | None = None
) -> Delta:
    """The delta that adds a change to the value vectors as they are now; nothing is written.

    Args:
        mllm: The model.
        neurons: Whose value vectors are changed, n of them.
        change: (n, H); rounded to the model's precision once it is added.
        manifest: What made it.

    Raises:
        EditError: there is no neuron, or the change is not finite.
    """
    _require_neurons(neurons)
    original = read_columns(mllm, neurons)
    edited = (original.double() + change.detach().cpu().double()).to(original.dtype)
    return Delta(
        neurons=neurons,
        original=original,
        edited=edited,
        model=mllm.name,
        revision=base_fingerprint(mllm),
        manifest=dict(manifest or {}),
    )


def compose(deltas: Sequence[Delta]) -> Delta:
    """Several deltas of one model as one.

    Raises:
        EditError: there is none, two change the same neuron, or they were made on different models.
    """
    if not deltas:
        raise EditError("expected at least one delta to compose")
    rows: dict[Neuron, tuple[int, int]] = {}  # neuron -> number of its delta, row in it
    for number, delta in enumerate(deltas):
        if (delta.revision, delta.original.dtype) != (deltas[0].revision, deltas[0].original.dtype):
            raise EditError(
                f"delta {number} was made on {delta.model} {delta.revision}, another model than the first"
            )
        both = [neuron for neuron in delta.neurons if neuron in rows]
        if both:
            raise EditError(
                f"deltas {rows[both[0]][0]} and {number} overlap in {len(both)} neurons: {named(both)}"
            )
        rows |= {neuron: (number, row) for row, neuron in enumerate(delta.neurons)}
    order = sorted(rows)
    places = [rows[neuron] for neuron in order]
    return Delta(
        neurons=NeuronSet(tuple(order)),
        original=torch.stack([deltas[number].original[row] for number, row in places]),
        edited=torch.stack([deltas[number].edited[row] for number, row in places]),
        model=deltas[0].model,
        revision=deltas[0].revision,
        manifest={"parts": [dict(delta.manifest) for delta in deltas]},
    )


def applied_deltas(mllm: MLLM) -> tuple[Delta, ...]:
    """The deltas that are applied to a model, oldest first."""
    return tuple(_APPLIED.get(mllm, ()))


def base_fingerprint(mllm: MLLM) -> str:
    """The model's fingerprint before any delta was applied, which all of them were made on."""
    applied = applied_deltas(mllm)
    return applied[0].revision if applied else fingerprint(mllm)


def _require_neurons(neurons: NeuronSet) -> None:
    if not len(neurons):
        raise EditError("an edit needs at least one neuron: set edit.k to 1 or more")


def named(neurons: Sequence[Neuron]) -> str:
    """The first few neurons by name."""
    more = ", ..." if len(neurons) > _NAMED else ""
    return ", ".join(map(str, neurons[:_NAMED])) + more
