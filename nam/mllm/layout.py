"""Which token each column of a forward pass is: what hooks need to find a position of a sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Layout:
    """The tokens of one forward pass over B rows of T columns, as a model announces them before it runs.

    Attributes:
        rows: Sample of each row of the batch, (B,).
        positions: Position of each column in its sample's sequence without padding, -1 at padding; (B, T)
            int64 on the CPU.
        starts: Position of each row whose forward pass predicts the first token of the answer, (B,).
        read: Tokens of each row that have been read, this pass included, (B,).
    """

    rows: tuple[int, ...]
    positions: Tensor
    starts: tuple[int, ...]
    read: tuple[int, ...]

    @classmethod
    def of_mask(cls, mask: Tensor, *, starts: Sequence[int] | None = None) -> Self:
        """The first pass over sequences whose attention mask is (B, T).

        Args:
            mask: 1 at tokens, 0 at padding.
            starts: As the attribute; None: the last token of each row, as in a prompt.
        """
        kept = mask.detach().cpu().long()
        read = tuple(kept.sum(-1).tolist())
        positions = torch.where(kept > 0, kept.cumsum(-1) - 1, -1)
        first = [length - 1 for length in read] if starts is None else starts
        return cls(tuple(range(len(kept))), positions, tuple(first), read)

    def then(self, added: Sequence[int], *, rows: Sequence[int] | None = None) -> Layout:
        """The next pass, which reads `added[b]` new tokens of each row, or none: all columns or no column.

        Args:
            added: Tokens of each row that goes on; what is read of a row with 0 counts as padding.
            rows: Rows of this pass that go on, (len(added),); None for all.
        """
        going = range(len(self.rows)) if rows is None else rows
        read = [self.read[row] for row in going]
        columns = torch.arange(max(added, default=0))
        positions = torch.tensor(read)[:, None] + columns
        positions = torch.where(torch.tensor(list(added))[:, None] > 0, positions, -1)
        return Layout(
            tuple(self.rows[row] for row in going),
            positions,
            tuple(self.starts[row] for row in going),
            tuple(before + new for before, new in zip(read, added, strict=True)),
        )
