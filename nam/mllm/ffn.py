"""Where the neurons of a language model are.

A neuron's activation is what ENTERS the last linear of its FFN (OPT: `fc2`; LLaMA-like: `down_proj`, so
act(gate) * up); its value vector is that linear's column. Sites are found through the model's public
accessors and verified before anything runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nam.errors import ModelError, nearest
from nam.mllm.resting import device_of, weight_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Name, inside a decoder layer, of the linear whose input is the activation.
VALUE_LINEARS = ("fc2", "mlp.down_proj", "mlp.fc2", "mlp.c_proj")

#: Name, inside a decoder layer, of a norm between that linear and the residual stream (Gemma 3, GLM-4).
NORMS_BETWEEN = ("post_feedforward_layernorm", "post_mlp_layernorm")

#: Name, in a text config, of a factor between the two (Granite).
FACTOR_BETWEEN = "residual_multiplier"

#: Name, inside a decoder, of the norm between the residual stream and the unembedding.
FINAL_NORMS = ("final_layer_norm", "norm", "final_layernorm")


@dataclass(frozen=True, eq=False)
class FfnSite:
    """The FFN of one layer.

    Attributes:
        layer: From 0.
        name: Path of `linear` inside the language model.
        linear: The linear whose input is the activation: weight (H, d).
        between: The norm that what it writes goes through before the residual stream; None for none.
        factor: What it is multiplied by on that way.
    """

    layer: int
    name: str
    linear: nn.Linear
    between: nn.Module | None = None
    factor: float = 1.0

    @property
    def width(self) -> int:
        """Number of neurons d."""
        return self.linear.in_features

    @property
    def value_vectors(self) -> Tensor:
        """Value vectors as columns, (H, d), where the layer computes, which need not be where others do: the
        weight itself, not a copy, unless it rests elsewhere."""
        return weight_of(self.linear)

    @property
    def device(self) -> torch.device:
        """Where the layer computes."""
        return device_of(self.linear)

    def columns(self, units: Tensor) -> Tensor:
        """Value vectors of some neurons, a copy (H, n), where the weight is."""
        weight = self.linear.weight
        return weight[:, units.to(weight.device)]

    @property
    def straight(self) -> bool:
        """Whether what the linear writes arrives in the residual stream as it is."""
        return self.between is None and self.factor == 1


def find_sites(language_model: PreTrainedModel) -> tuple[FfnSite, ...]:
    """The FFN sites of a decoder-only language model, one a layer.

    Raises:
        ModelError: a layer has no such linear, its FFN is a mixture of experts, or its width is not what the
            model's config says.
    """
    decoder = language_model.get_decoder()
    config = language_model.config.get_text_config(decoder=True)
    layers = getattr(decoder, "layers", None)
    expected = config.num_hidden_layers
    if not isinstance(layers, nn.ModuleList) or len(layers) != expected:
        raise ModelError(f"{type(decoder).__name__} should have {expected} layers in `.layers` and has not")
    paths = {id(module): name for name, module in language_model.named_modules()}
    width = getattr(config, "ffn_dim", None) or getattr(config, "intermediate_size", None)
    factor = getattr(config, FACTOR_BETWEEN, None)
    sites = []
    for index, layer in enumerate(layers):
        linear = _value_linear(layer)
        shape = (linear.out_features, linear.in_features)
        if shape != (config.hidden_size, width):
            raise ModelError(
                f"{paths[id(linear)]}: expected {width} neurons writing {config.hidden_size} dimensions, "
                f"got a weight of shape {shape}"
            )
        between = next((getattr(layer, name) for name in NORMS_BETWEEN if hasattr(layer, name)), None)
        found = FfnSite(index, paths[id(linear)], linear, between, 1.0 if factor is None else float(factor))
        sites.append(found)
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
    head: Any = language_model.get_output_embeddings()
    hidden = language_model.config.get_text_config(decoder=True).hidden_size
    if not isinstance(head, nn.Linear) or head.in_features != hidden:
        raise ModelError(f"expected a linear unembedding of {hidden} dimensions, got {head}")
    return head.weight


def _value_linear(layer: nn.Module) -> nn.Linear:
    experts = next((name for name, _ in layer.named_modules() if name.rpartition(".")[2] == "experts"), None)
    if experts is not None:
        raise ModelError(
            f"the FFN of {type(layer).__name__} is a mixture of experts ({experts}), whose neurons are not "
            "supported; choose a dense model of the family"
        )
    linears = {name: module for name, module in layer.named_modules() if isinstance(module, nn.Linear)}
    for name in VALUE_LINEARS:
        if name in linears:
            return linears[name]
    hint = nearest(VALUE_LINEARS[-1], linears)
    raise ModelError(
        f"{type(layer).__name__} has no linear called {' or '.join(VALUE_LINEARS)} for its FFN to write with "
        f"({hint})"
    )
