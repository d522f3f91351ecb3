"""Where the neurons of a language model are.

A neuron's activation is what ENTERS the last linear of its FFN (OPT: `fc2`; LLaMA-like: `down_proj`, so
act(gate) * up); its value vector is that linear's column. Sites are found through the model's public
accessors and verified before anything runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from nam.errors import ModelError, nearest

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Name, inside a decoder layer, of the linear whose input is the activation.
VALUE_LINEARS = ("fc2", "mlp.down_proj")

#: Name, inside a decoder, of the norm between the residual stream and the unembedding.
FINAL_NORMS = ("final_layer_norm", "norm")


@dataclass(frozen=True, eq=False)
class FfnSite:
    """The FFN of one layer.

    Attributes:
        layer: From 0.
        name: Path of `linear` inside the language model.
        linear: The linear whose input is the activation: weight (H, d).
    """

    layer: int
    name: str
    linear: nn.Linear

    @property
    def width(self) -> int:
        """Number of neurons d."""
        return self.linear.in_features

    @property
    def value_vectors(self) -> Tensor:
        """Value vectors as columns, (H, d): the weight itself, not a copy."""
        return self.linear.weight


def find_sites(language_model: PreTrainedModel) -> tuple[FfnSite, ...]:
    """The FFN sites of a decoder-only language model, one a layer.

    Raises:
        ModelError: a layer has no such linear, or its width is not what the model's config says.
    """
    decoder = language_model.get_decoder()
    config = language_model.config.get_text_config(decoder=True)
    layers = getattr(decoder, "layers", None)
    expected = config.num_hidden_layers
    if not isinstance(layers, nn.ModuleList) or len(layers) != expected:
        raise ModelError(f"{type(decoder).__name__} should have {expected} layers in `.layers` and has not")
    paths = {id(module): name for name, module in language_model.named_modules()}
    width = getattr(config, "ffn_dim", None) or getattr(config, "intermediate_size", None)
    sites = []
    for index, layer in enumerate(layers):
        linear = _value_linear(layer)
        shape = (linear.out_features, linear.in_features)
        if shape != (config.hidden_size, width):
            raise ModelError(
                f"{paths[id(linear)]}: expected {width} neurons writing {config.hidden_size} dimensions, "
                f"got a weight of shape {shape}"
            )
        sites.append(FfnSite(index, paths[id(linear)], linear))
    return tuple(sites)


def final_norm(language_model: PreTrainedModel) -> nn.Module | None:
    """The norm between the residual stream and the unembedding, or None where the model has none.

    Raises:
        ModelError: the decoder has no attribute of a known name.
    """
    decoder = language_model.get_decoder()
    for name in FINAL_NORMS:
        if hasattr(decoder, name):
            return getattr(decoder, name)
    raise ModelError(f"{type(decoder).__name__} has no final norm under a known name {FINAL_NORMS}")


def unembedding(language_model: PreTrainedModel) -> Tensor:
    """The unembedding W_u, (V, H): the weight itself, not a copy.

    Raises:
        ModelError: the model has no linear output embedding of its hidden size.
    """
    head = language_model.get_output_embeddings()
    hidden = language_model.config.get_text_config(decoder=True).hidden_size
    if not isinstance(head, nn.Linear) or head.in_features != hidden:
        raise ModelError(f"expected a linear unembedding of {hidden} dimensions, got {head}")
    return head.weight


def _value_linear(layer: nn.Module) -> nn.Linear:
    linears = {name: module for name, module in layer.named_modules() if isinstance(module, nn.Linear)}
    for name in VALUE_LINEARS:
        if name in linears:
            return linears[name]
    hint = nearest(VALUE_LINEARS[-1], linears)
    raise ModelError(
        f"{type(layer).__name__} has no linear called {' or '.join(VALUE_LINEARS)} for its FFN to write with "
        f"({hint})"
    )
