"""Whether neurons write where they are said to: asked of every layer, in one short forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nam.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from nam.mllm.ffn import FfnSite

_TOKENS = 3


@torch.no_grad()
def probe_sites(language_model: PreTrainedModel, sites: Sequence[FfnSite]) -> None:
    """Check that a change of a layer's activations changes its output by what the site says, and no more.

    Two equal rows are read; in one of them each layer's activations are changed, and its output is set back
    to the other row's before the next layer.

    Args:
        language_model: The model; nothing of it is changed.
        sites: Its FFN sites, one a layer.

    Raises:
        ModelError: a layer does something else with what its value linear writes, such as a norm or a factor
            that is not known here.
    """
    decoder: Any = language_model.get_decoder()
    embedding: Any = language_model.get_input_embeddings().weight
    read = embedding[torch.arange(_TOKENS, device=embedding.device) % len(embedding)]
    wrong: list[int] = []
    with ExitStack() as stack:
        for site, layer in zip(sites, decoder.layers, strict=True):
            _watch(site, layer, stack, wrong)
        decoder(inputs_embeds=read.expand(2, -1, -1), use_cache=False)
    if wrong:
        site = sites[wrong[0]]
        raise ModelError(
            f"what {site.name} writes does not arrive in the residual stream as expected (also in "
            f"{len(wrong) - 1} other layers): the neurons of {type(decoder).__name__} are not supported"
        )


def _watch(site: FfnSite, layer: nn.Module, stack: ExitStack, wrong: list[int]) -> None:
    expected: list[Tensor] = []

    def change(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        values: Tensor = given[0].reshape(2, -1, site.width)
        pattern = torch.linspace(-2.0, 3.0, site.width, device=values.device).sin().to(values)
        size = values[0].square().mean().sqrt().clamp(min=1e-2)
        changed = torch.stack([values[0], values[0] + size * pattern])
        linear = nn.functional.linear(changed, site.value_vectors, site.linear.bias)
        arriving = linear if site.between is None else site.between(linear)
        expected.append(site.factor * (arriving[1].float() - arriving[0].float()))
        return (changed.reshape(given[0].shape), *given[1:])

    def compare(module: nn.Module, given: tuple[Any, ...], out: Any) -> Any:
        stream: Tensor = out[0] if isinstance(out, tuple) else out
        plain, changed = stream.float().unbind()
        want = expected.pop().to(stream.device)
        noise = 1e-3 * want.abs().max() + 8 * torch.finfo(stream.dtype).eps * (plain.abs() + want.abs())
        if not bool(((changed - plain - want).abs() <= noise).all()):
            wrong.append(site.layer)
        again = stream[:1].expand_as(stream)
        return (again, *out[1:]) if isinstance(out, tuple) else again

    stack.callback(site.linear.register_forward_pre_hook(change).remove)
    stack.callback(layer.register_forward_hook(compare).remove)
