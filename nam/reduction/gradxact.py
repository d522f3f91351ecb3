"""GraT, gradient times activation (Schwettmann et al. 2023): first order, with all indirect paths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nam.hooks import Intervention, Recorder, Visit
from nam.reduction.base import Context, Method, Needs


@dataclass(frozen=True, kw_only=True)
class GradXAct(Method):
    """a dy/da, averaged over the target's positions.

    y sums <direction, h> over the target's positions, h being the last hidden state, after the final norm.
    For a word that is the sum of the logits of the tokens produced. One forward and one backward pass of the
    language model, never of the picture generator.

    Args:
        region: For pictures, use the region's relevance (meant to be signed), or 1 in every dimension as in
            eq. 15.
        batch: Generations that are replayed together.
    """

    name: ClassVar[str] = "gradxact"
    needs: ClassVar[Needs] = Needs(backward=True, signed=True)

    region: bool = True
    batch: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_whole(batch=1)

    def _score_batch(self, contexts: Sequence[Context]) -> list[Tensor]:
        found = gradients_by_batch(contexts, region=self.region, batch=self.batch)
        return [(c.activations * gradient).mean(1) for c, gradient in zip(contexts, found, strict=True)]


def gradients_by_batch(contexts: Sequence[Context], *, region: bool, batch: int) -> Iterator[Tensor]:
    """`gradients` of each context, `batch` of them at once.

    Args:
        contexts: Of one model.
        region: For pictures, whether y is the region's relevance, or sums every dimension.
        batch: Generations that are replayed together.
    """
    for start in range(0, len(contexts), batch):
        part = contexts[start : start + batch]
        yield from gradients(part, [context.after_norm(region=region) for context in part])


def gradients(contexts: Sequence[Context], directions: Sequence[Tensor]) -> list[Tensor]:
    """dy/da at each context's positions, (L, P, d), for y = sum over positions of <direction, h>.

    Activations that were not read yet are read by the way.

    Args:
        contexts: Of one model.
        directions: After the final norm, (P, H) each.
    """
    mllm = contexts[0].mllm
    sizes = [len(context.target.positions) for context in contexts]
    leaves: list[Tensor] = []

    def add_leaf(visit: Visit) -> Tensor:
        # The gradient of a zero that is added is the activation's, at the chosen positions alone.
        leaves.append(torch.zeros_like(visit.values).requires_grad_())
        return visit.values + leaves[-1]

    # A Trainer predicts in inference mode, where nothing has a gradient.
    with torch.inference_mode(False), torch.enable_grad():
        where = [context.target.positions for context in contexts]
        recorder = None if all(one.reading.there for one in contexts) else Recorder(mllm, where=where)
        cut = [one.generation.until(one.target.positions[-1] + 1) for one in contexts]
        with Intervention(mllm, change=add_leaf, where=where):
            replayed = mllm.replay(cut, record=recorder)
        for context, recorded in zip(contexts, recorder.recorded if recorder else (), strict=False):
            context.reading.fill(recorded)
        total = replayed.hidden.new_zeros((), dtype=directions[0].dtype)
        # A tensor that was made in inference mode cannot take part in a gradient; a copy can.
        plain = [rows.clone() if rows.is_inference() else rows for rows in directions]
        for row, (context, rows) in enumerate(zip(contexts, plain, strict=True)):
            columns = [replayed.offsets[row] + position for position in context.target.positions]
            total = total + (replayed.hidden[row, columns].to(rows) * rows).sum()
        found = torch.autograd.grad(total, leaves)
    by_layer = [gradient.to(directions[0]).split(sizes) for gradient in found]
    return [torch.stack(layers) for layers in zip(*by_layer, strict=True)]
