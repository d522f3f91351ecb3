"""A decoder's layers written out in plain float64, some of whose factors can be frozen.

Embeddings and attention patterns are transformers' own (of its eager implementation); the rest is by hand.
With every factor frozen the network is an affine function of what is added to its activations.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from nam.mllm.gill import GILL
from nam.reduction.linearise import Rules

KEPT: dict[str, Callable[[Tensor], Tensor]] = {
    "ReLU": lambda x: x.clamp(min=0),
    "GELU": lambda x: x * 0.5 * (1 + torch.erf(x / 2**0.5)),
    "GELUActivation": lambda x: x * 0.5 * (1 + torch.erf(x / 2**0.5)),
    "GELUTanh": lambda x: 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))),
    "SiLU": lambda x: x / (1 + torch.exp(-x)),
    "SiLUActivation": lambda x: x / (1 + torch.exp(-x)),
}


class ByHand:
    """The last hidden states (T, H) of one sequence, with something added to the activations of one layer.

    Args:
        mllm: The model.
        embeds: What it reads, (1, T, H).
        rules: Which factors are frozen at the values that they have without anything added.
    """

    def __init__(self, mllm: GILL, embeds: Tensor, rules: Rules) -> None:
        self.decoder, self.rules = mllm.language_model.get_decoder(), rules
        self.last_norm = getattr(self.decoder, "final_layer_norm", None) or self.decoder.norm
        model = copy.deepcopy(mllm.language_model)
        model.set_attn_implementation("eager")
        out = model.get_decoder()(inputs_embeds=embeds, output_attentions=True, output_hidden_states=True)
        self.patterns = [pattern[0].double() for pattern in out.attentions]
        self.start = out.hidden_states[0][0].double()
        self.factors: list[Tensor] = []
        self.frozen = False
        self.activations: list[Tensor] = []
        self.plain = self({})
        self.frozen = True

    def __call__(self, added: dict[int, Tensor]) -> Tensor:
        """Args: added: (T, d) by layer."""
        self.at = 0
        stream = self.start
        for index, layer in enumerate(self.decoder.layers):
            is_opt = hasattr(layer, "fc1")
            first = layer.self_attn_layer_norm if is_opt else layer.input_layernorm
            written = self.attention(layer.self_attn, self.norm(first, stream), self.patterns[index])
            sandwich = hasattr(layer, "pre_feedforward_layernorm")
            stream = stream + (self.norm(layer.post_attention_layernorm, written) if sandwich else written)
            names = ["pre_feedforward_layernorm", "final_layer_norm", "post_attention_layernorm"]
            second = next(getattr(layer, name) for name in names if hasattr(layer, name))
            a = self.activation(layer, self.norm(second, stream))
            if not self.frozen:
                self.activations.append(a)
            written = linear(layer.fc2 if is_opt else layer.mlp.down_proj, a + added.get(index, 0))
            stream = stream + (self.norm(layer.post_feedforward_layernorm, written) if sandwich else written)
        return self.norm(self.last_norm, stream)

    def factor(self, value: Tensor, *, frozen: bool) -> Tensor:
        """The value, or what it was when nothing was added."""
        if not self.frozen:
            self.factors.append(value)
        self.at += 1
        return self.factors[self.at - 1] if frozen else value

    def norm(self, module: Any, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True) if isinstance(module, nn.LayerNorm) else x
        eps = getattr(module, "variance_epsilon", None) or module.eps
        scale = (centred.square().mean(-1, keepdim=True) + eps).sqrt()
        gain = module.weight.double() + (1 if "Gemma" in type(module).__name__ else 0)
        rule = self.rules.final_norm if module is self.last_norm else self.rules.norms
        y = centred / self.factor(scale, frozen=rule == "held") * gain
        return y + module.bias.double() if getattr(module, "bias", None) is not None else y

    def attention(self, module: Any, x: Tensor, pattern: Tensor) -> Tensor:
        heads = len(pattern)
        values = linear(module.v_proj, x)
        values = values.reshape(len(x), -1, module.head_dim).transpose(0, 1)
        values = values.repeat_interleave(heads // len(values), dim=0)
        mixed = (pattern @ values).transpose(0, 1).reshape(len(x), -1)
        return linear(module.out_proj if hasattr(module, "out_proj") else module.o_proj, mixed)

    def nonlinearity(self, module: Any, x: Tensor) -> Tensor:
        y = KEPT[type(module).__name__](x)
        if self.rules.nonlinearity == "exact":
            return y
        return x * self.factor(torch.where(x == 0, 0, y / x), frozen=True)

    def activation(self, layer: Any, x: Tensor) -> Tensor:
        if hasattr(layer, "fc1"):
            return self.nonlinearity(layer.activation_fn, linear(layer.fc1, x))
        gate = self.nonlinearity(layer.mlp.act_fn, linear(layer.mlp.gate_proj, x))
        up = linear(layer.mlp.up_proj, x)
        if self.rules.gate == "exact":
            return gate * up
        return (gate * self.factor(up, frozen=True) + self.factor(gate, frozen=True) * up) / 2


def linear(module: nn.Linear, x: Tensor) -> Tensor:
    y = x @ module.weight.double().T
    return y if module.bias is None else y + module.bias.double()
