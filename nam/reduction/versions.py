"""Many versions of one layer's activations in one forward pass, from that layer on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from nam.hooks import SiteHooks, Visit
from nam.reduction.base import Context

if TYPE_CHECKING:
    from nam.mllm.base import MLLM


def hidden_of_versions(context: Context, activations: Tensor, *, layer: int) -> Tensor:
    """The last hidden states at the target's positions, for other activations of one layer there.

    The answer is read once up to the layer, and its K versions go on side by side from there: neither what
    feeds the language model nor the layers before are computed K times, nor what comes after the last
    position at all. Nothing is padded. Differentiable by `activations` when gradients are enabled.

    Args:
        context: The answer and the positions (P).
        activations: Of the layer, (K, P, d), instead of the answer's own.
        layer: From 0.

    Returns:
        Hidden states after the final norm (K, P, H), in the precision of `context.activations`.
    """
    mllm, positions = context.mllm, list(context.target.positions)
    generation = context.generation.until(positions[-1] + 1)
    with _copies(mllm, layer=layer, count=len(activations)):
        replayed = mllm.replay([generation], record=_Written(context, activations, layer=layer))
    columns = [replayed.offsets[0] + position for position in positions]
    return replayed.hidden[:, columns].to(context.activations)


class _Written(SiteHooks):
    """Writes (K, P, d) where the K copies of the P positions come by."""

    def __init__(self, context: Context, activations: Tensor, *, layer: int) -> None:
        super().__init__(context.mllm, where=[context.target.positions] * len(activations))
        self.activations, self.layer = activations, layer

    def _modules(self) -> Sequence[tuple[int, nn.Module]]:
        return [(self.layer, self.mllm.ffn_sites[self.layer].linear)]

    def _visit(self, visit: Visit) -> Tensor:
        return self.activations.reshape(visit.values.shape)


@contextmanager
def _copies(mllm: MLLM, *, layer: int, count: int) -> Iterator[None]:
    """Inside, a replay of one answer goes on as `count` equal rows from a layer on.

    Masks and positions of a single row, which is not padded, fit any number of rows as they are.
    """

    def copy(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        layout = mllm.layout
        assert layout is not None  # SiteHooks says so to the user
        mllm.announce(
            replace(
                layout,
                rows=tuple(range(count)),
                positions=layout.positions.repeat(count, 1),
                starts=layout.starts * count,
                read=layout.read * count,
            )
        )
        if args:
            return (args[0].repeat(count, 1, 1), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": kwargs["hidden_states"].repeat(count, 1, 1)}

    block = mllm.language_model.get_decoder().layers[layer]
    handle = block.register_forward_pre_hook(copy, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def not_inference(tensor: Tensor) -> Tensor:
    """The tensor, or a copy of one made in inference mode, which cannot take part in a gradient."""
    return tensor.clone() if tensor.is_inference() else tensor
