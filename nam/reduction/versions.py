"""Many versions of one layer's activations, and the last hidden states that follow from each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nam.hooks import SiteHooks, Visit
from nam.mllm.resume import Trace, Write, require_same, trace
from nam.reduction.base import Context


@dataclass(frozen=True, eq=False)
class Versions:
    """An answer that goes on from any of its layers with other activations at the target's positions.

    Attributes:
        context: The answer and the P positions.
        traced: What to go on from: no more than the positions from the first to the last is computed, over
            the keys and values of the earlier ones. None: all positions are, by hooks, which any model can.
    """

    context: Context
    traced: Trace | None

    @classmethod
    def of(cls, context: Context, *, resume: bool) -> Versions:
        """Read the answer once.

        Args:
            context: The answer and the positions.
            resume: Keep what it takes to go on from a layer.

        Raises:
            ModelError: the model cannot go on from a layer, or what it then computes is not what it computes
                at once; by `resume=False` it can.
        """
        if not resume:
            return cls(context, None)
        positions = context.target.positions
        with torch.inference_mode(False):  # what is kept takes part in gradients
            traced = trace(context.mllm, context.generation, start=positions[0], stop=positions[-1] + 1)
            with torch.no_grad():
                plain = _resumed(context, traced, traced.layers[0].entering[None], layer=0)[0]
        require_same(plain, traced.hidden[list(positions)], name=context.mllm.name)
        return cls(context, traced)

    def hidden(self, activations: Tensor, *, layer: int) -> Tensor:
        """The last hidden states at the positions; differentiable by `activations` if gradients are enabled.

        Args:
            activations: Of the layer, (K, P, d), instead of the answer's own.
            layer: From 0.

        Returns:
            Hidden states after the final norm (K, P, H), in the precision of `context.activations`.
        """
        if self.traced is None:
            return _replayed(self.context, activations, layer=layer).to(self.context.activations)
        at = _window(self.context, self.traced)

        def write(values: Tensor) -> Tensor:
            new = values.clone()
            new[: len(activations), at] = activations.to(values)
            return new

        entering = self.traced.layers[layer].entering.expand(len(activations), -1, -1)
        found = _resumed(self.context, self.traced, entering, layer=layer, write=write)
        return found.to(self.context.activations)


def _window(context: Context, traced: Trace) -> list[int]:
    """Where the positions are in the window that is traced."""
    return [position - traced.start for position in context.target.positions]


def _resumed(
    context: Context, traced: Trace, rows: Tensor, *, layer: int, write: Write | None = None
) -> Tensor:
    """Last hidden states (K, P, H) of what enters a layer, (K, W, H)."""
    for later in range(layer, len(traced.layers)):
        rows = traced.step(later, rows, write=write if later == layer else None)
    rows, norm = rows[:, _window(context, traced)], context.mllm.final_norm
    hidden: Tensor = rows if norm is None else norm(rows)
    return hidden


def _replayed(context: Context, activations: Tensor, *, layer: int) -> Tensor:
    """The same by one replay of K equal rows, of which nothing is padded."""
    mllm, positions = context.mllm, list(context.target.positions)
    generation = context.generation.until(positions[-1] + 1)
    written = _Written(context, activations, layer=layer)
    replayed = mllm.replay([generation] * len(activations), record=written)
    return replayed.hidden[:, [replayed.offsets[0] + position for position in positions]]


class _Written(SiteHooks):
    """Writes (K, P, d) where the P positions of the K rows come by."""

    def __init__(self, context: Context, activations: Tensor, *, layer: int) -> None:
        super().__init__(context.mllm, where=[context.target.positions] * len(activations))
        self.activations, self.layer = activations, layer

    def _modules(self) -> Sequence[tuple[int, nn.Module]]:
        return [(self.layer, self.mllm.ffn_sites[self.layer].linear)]

    def _visit(self, visit: Visit) -> Tensor:
        return self.activations.reshape(visit.values.shape)


def not_inference(tensor: Tensor) -> Tensor:
    """The tensor, or a copy of one made in inference mode, which cannot take part in a gradient."""
    return tensor.clone() if tensor.is_inference() else tensor
