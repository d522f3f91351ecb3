"""AtP*'s GradDrop (Kramar et al. 2024, arXiv 2403.00745): effects that cancel between paths still count."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from nam.errors import ModelError
from nam.reduction.base import Context, Method, Needs
from nam.reduction.gradxact import gradients_by_batch

if TYPE_CHECKING:
    from nam.mllm.base import MLLM


@dataclass(frozen=True, kw_only=True)
class AtPStar(Method):
    """The sum over layers of |a dy/da| / (L - 1), each time without the gradient through that layer.

    What attention and FFN of the dropped layer write has no gradient then; a neuron's own layer is one of the
    L and adds 0. y is that of `GradXAct`; a dy/da is averaged over the target's positions before its size is
    taken, so scores are unsigned. Costs a forward and a backward pass a layer. The other half of AtP*, which
    recomputes the attention of a changed query or key, concerns no neuron of an FFN and is left out.

    Args:
        region: For pictures, use the region's relevance (meant to be signed), or 1 in every dimension.
        batch: Generations that are replayed together.
    """

    name: ClassVar[str] = "atp_star"
    needs: ClassVar[Needs] = Needs(backward=True, signed=True)

    region: bool = True
    batch: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_whole(batch=1)

    def _score_batch(self, contexts: Sequence[Context]) -> list[Tensor]:
        mllm = contexts[0].mllm
        layers = len(mllm.ffn_sites)
        if layers < 2:
            raise ModelError(f"atp_star drops one layer of several, {mllm.name} has {layers}: use gradxact")
        scores = [torch.zeros_like(context.activations[:, 0]) for context in contexts]
        for layer in range(layers):
            with without_gradient(mllm, layer):
                found = list(gradients_by_batch(contexts, region=self.region, batch=self.batch))
            for score, context, gradient in zip(scores, contexts, found, strict=True):
                score += (context.activations * gradient).mean(1).abs() / (layers - 1)
        return scores


@contextmanager
def without_gradient(mllm: MLLM, layer: int) -> Iterator[None]:
    """Inside, nothing that a layer writes into the residual stream has a gradient; values are the same.

    Raises:
        ModelError: the layer's attention is not where it is in models that are known.
    """

    def stop(module: nn.Module, given: Any, out: Any) -> None:
        written: Tensor = out[0] if isinstance(out, tuple) else out
        if written.requires_grad:
            written.register_hook(torch.zeros_like)

    block = mllm.language_model.get_decoder().layers[layer]
    if not hasattr(block, "self_attn"):
        raise ModelError(
            f"atp_star needs self_attn in every layer of {mllm.name}, {type(block).__name__} has none: use "
            "gradxact"
        )
    with ExitStack() as stack:
        for module in (block.self_attn, mllm.ffn_sites[layer].linear):
            stack.callback(module.register_forward_hook(stop).remove)
        yield
