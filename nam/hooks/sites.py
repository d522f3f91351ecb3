"""The one mechanism behind reading and writing: forward pre-hooks that know which token is where."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor, nn

from nam.errors import InputError, ModelError

if TYPE_CHECKING:
    from nam.mllm.base import MLLM
    from nam.mllm.layout import Layout

#: Positions that count: "all" but padding; "answer", those from the prompt's last token on, whose forward
#: passes predict the answer, and the [IMG] tokens; or ascending positions of each sample.
Where = Literal["all", "answer"] | Sequence[Sequence[int]]


@dataclass(frozen=True, eq=False)
class Visit:
    """What one forward pass brings to one module, at the positions that count: n of them.

    Attributes:
        layer: Of the FFN, from 0; the number of layers for the final norm.
        rows: Sample of each entry, (n,).
        positions: Position of each entry in its sample's sequence, (n,).
        values: Activations (n, d), or the residual stream (n, H) at the final norm.
    """

    layer: int
    rows: Sequence[int]
    positions: Sequence[int]
    values: Tensor


@dataclass(frozen=True)
class _Entries:
    columns: Tensor  # into batch * position
    rows: list[int]
    positions: list[int]


class SiteHooks(ABC):
    """A context manager whose hooks stand from `__enter__` to `__exit__`, exceptions included.

    Args:
        mllm: Whose FFNs are visited.
        where: Positions that count.
    """

    def __init__(self, mllm: MLLM, *, where: Where) -> None:
        if isinstance(where, str) and where not in ("all", "answer"):
            raise InputError(f'where must be "all", "answer" or positions of each sample, got {where!r}')
        self.mllm = mllm
        self.where = where
        self._stack: ExitStack | None = None
        self._entries: tuple[Layout, dict[torch.device, _Entries]] | None = None

    @abstractmethod
    def _modules(self) -> Sequence[tuple[int, nn.Module]]:
        """The modules whose input is visited, each with the layer that its visits name."""

    @abstractmethod
    def _visit(self, visit: Visit) -> Tensor | None:
        """Values that go on instead of `visit.values`; None leaves them as they are."""

    def __enter__(self) -> Self:
        if self._stack is not None:
            raise RuntimeError("these hooks are in use already: make new ones for a call inside a call")
        with ExitStack() as stack:
            for layer, module in self._modules():
                stack.callback(module.register_forward_pre_hook(self._hook(layer)).remove)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        stack, self._stack, self._entries = self._stack, None, None
        if stack is not None:
            stack.close()

    def _hook(self, layer: int) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...] | None]:
        def hook(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
            layout = self.mllm.layout
            if layout is None:
                raise ModelError("hooks see a forward pass that was not announced: use generate or replay")
            entries = self._of(layout, given[0].device)
            if not entries.rows:
                return None
            read: Tensor = given[0]
            # Some decoders flatten batch and position before their FFN, others do not: the order is the same.
            flat = read.reshape(-1, read.shape[-1])
            if len(flat) != layout.positions.numel():
                raise ModelError(
                    f"{type(module).__name__} of layer {layer} reads a tensor of shape {tuple(read.shape)}; "
                    f"expected {' x '.join(map(str, layout.positions.shape))} tokens"
                )
            values = flat.index_select(0, entries.columns)
            new = self._visit(Visit(layer, entries.rows, entries.positions, values))
            if new is None:
                return None
            # A new tensor: writing in place would break the gradient of a ReLU.
            return (flat.index_copy(0, entries.columns, new.to(flat)).reshape(read.shape), *given[1:])

        return hook

    def _of(self, layout: Layout, device: torch.device) -> _Entries:
        if self._entries is None or self._entries[0] is not layout:
            self._entries = (layout, {})
        known = self._entries[1]
        if device not in known:
            counts = layout.positions >= 0
            if self.where == "answer":
                counts &= layout.positions >= torch.tensor(layout.starts)[:, None]
            elif self.where != "all":
                chosen = torch.zeros_like(counts)
                for row, sample in enumerate(layout.rows):
                    wanted = torch.tensor(list(self._wanted(sample)), dtype=torch.long)
                    chosen[row] = torch.isin(layout.positions[row], wanted)
                counts &= chosen
            batch_rows, _ = counts.nonzero(as_tuple=True)
            known[device] = _Entries(
                counts.flatten().nonzero().squeeze(1).to(device),
                [layout.rows[row] for row in batch_rows.tolist()],
                layout.positions[counts].tolist(),
            )
        return known[device]

    def _wanted(self, sample: int) -> Sequence[int]:
        if isinstance(self.where, str) or sample >= len(self.where):
            raise InputError(f"no positions are given for sample {sample}; expected some for each sample")
        return self.where[sample]
