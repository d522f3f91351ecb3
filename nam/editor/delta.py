"""A change of some value vectors: computed once, applied and reverted as often as one likes, bit by bit.

A delta holds the original and the edited columns, so that reverting restores and never subtracts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import RLock
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor

from nam.checks import expect
from nam.editor.columns import bits, named, read_columns, write_columns
from nam.errors import NamError
from nam.mllm.base import MLLM
from nam.mllm.fingerprint import fingerprint
from nam.types import Neuron, NeuronSet


class EditError(NamError):
    """An edit that cannot be made, or a delta that does not fit."""


#: The deltas that are applied to each model, oldest first.
_APPLIED: WeakKeyDictionary[MLLM, list[Delta]] = WeakKeyDictionary()

#: Held while weights are checked and written, since threads may share a model.
_LOCK = RLock()


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
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
        if not len(self.neurons):
            raise EditError("an edit needs at least one neuron: set edit.k to 1 or more")
        count, shapes = len(self.neurons), (tuple(self.original.shape), tuple(self.edited.shape))
        if shapes[0] != shapes[1] or len(shapes[0]) != 2 or shapes[0][0] != count:
            raise EditError(f"expected two tensors of {count} value vectors (n, H), got {shapes}")
        if self.original.dtype != self.edited.dtype:
            raise EditError(f"original is {self.original.dtype}, edited is {self.edited.dtype}")
        if not bool(self.edited.isfinite().all()):
            precision = str(self.edited.dtype).removeprefix("torch.")
            raise EditError(
                f"the edited value vectors are not finite in {precision}: expected a smaller change, or one "
                "of a model in bfloat16 or float32 (mllm.dtype)"
            )

    def __repr__(self) -> str:
        made = self.manifest
        what = f"{made['source']} -> {made['target']}, " if {"source", "target"} <= made.keys() else ""
        return f"Delta({what}{len(self.neurons)} neurons of {self.model}, l2 norm {self.norm:.3g})"

    @property
    def norm(self) -> float:
        """l2 norm of the change."""
        return float((self.edited.double() - self.original.double()).norm())

    def apply(self, mllm: MLLM) -> None:
        """Write the edited columns into the model.

        Raises:
            EditError: the model is another one, or its columns are not those that the delta was made on.
        """
        with _LOCK:
            self.check(mllm)
            self._write(mllm, self.edited)
            _APPLIED.setdefault(mllm, []).append(self)

    def check(self, mllm: MLLM) -> None:
        """Refuse a model that this delta cannot be applied to, as `apply` does; nothing is written."""
        expect(MLLM, mllm, "a delta is applied to a model, as nam.load gives it", error=EditError)
        self._check_model(mllm)
        applied = applied_deltas(mllm)
        why = "apply first what it was made on top of, or load the weights anew if they were changed since"
        if self in applied:
            why = "it is applied already"
        elif self._shared(applied):
            why = "it overlaps with a delta that is applied: revert that one first, or compose the two"
        self._check_columns(mllm, self.original, why)

    def revert(self, mllm: MLLM) -> None:
        """Write the original columns back, bit by bit.

        Raises:
            EditError: the delta is not applied to this model, or its columns were changed since, as by
                another delta that overlaps: revert that one first.
        """
        with _LOCK:
            deltas = applied_deltas(mllm)
            if self not in deltas:
                raise EditError(f"this delta is not applied to {mllm.name}: there is nothing to revert")
            place = max(i for i, delta in enumerate(deltas) if delta is self)
            later = self._shared(deltas[place + 1 :])
            if later:
                raise EditError(
                    "the delta cannot be reverted: one that was applied later overlaps with it in "
                    f"{len(later)} neurons ({named(later)}): revert that one first"
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
        hidden, count, width = self.original.shape[1], len(sites), sites[0].width
        if _beyond(mllm, self.neurons) or sites[0].linear.out_features != hidden:
            raise EditError(
                f"the delta does not fit: it was made on {self.model} and changes neurons up to "
                f"{self.neurons.neurons[-1]} of {hidden} dimensions; {mllm.name} has {count} layers of "
                f"{width} neurons of {sites[0].linear.out_features} dimensions"
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
        changed = {neuron for delta in deltas for neuron in delta.neurons}
        return [neuron for neuron in self.neurons if neuron in changed]

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
        EditError: no neuron, one that the model has not, or a change of another shape or not finite.
    """
    require_neurons(mllm, neurons)
    original = read_columns(mllm, neurons)
    if change.shape != original.shape:
        expected, got = tuple(original.shape), tuple(change.shape)
        raise EditError(f"expected a change (n, H) of shape {expected} for {len(neurons)} neurons, got {got}")
    edited = (original.double() + change.detach().cpu().double()).to(original.dtype)
    return Delta(
        neurons=neurons,
        original=original,
        edited=edited,
        model=mllm.name,
        revision=base_fingerprint(mllm),
        manifest=dict(manifest or {}),
    )


def applied_deltas(mllm: MLLM) -> tuple[Delta, ...]:
    """The deltas that are applied to a model, oldest first."""
    return tuple(_APPLIED.get(mllm, ()))


def base_fingerprint(mllm: MLLM) -> str:
    """The model's fingerprint before any delta was applied, which all of them were made on."""
    applied = applied_deltas(mllm)
    return applied[0].revision if applied else fingerprint(mllm)


def require_neurons(mllm: MLLM, neurons: NeuronSet) -> None:
    """Raise EditError unless there are neurons, all of them the model's."""
    expect(NeuronSet, neurons, "neurons: expected a nam.types.NeuronSet", error=EditError)
    if not len(neurons):
        raise EditError("an edit needs at least one neuron: set edit.k to 1 or more")
    beyond = _beyond(mllm, neurons)
    if beyond:
        sites = mllm.ffn_sites
        raise EditError(
            f"{mllm.name} has no neuron {named(beyond)}: expected layers 0 to {len(sites) - 1}, units 0 to "
            f"{sites[min(beyond[0].layer, len(sites) - 1)].width - 1}"
        )


def _beyond(mllm: MLLM, neurons: NeuronSet) -> list[Neuron]:
    """The neurons that the model has not."""
    widths = [site.width for site in mllm.ffn_sites]
    return [n for n in neurons if n.layer >= len(widths) or n.unit >= widths[n.layer]]
