"""A model small enough to work out by hand: two FFN layers on a residual stream, no attention, no norms.

h1 = x + W1 a1,  a1 = relu(V1 x)
h2 = h1 + W2 a2, a2 = f(V2 h1)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from nam.mllm.base import MLLM, Replayed
from nam.mllm.layout import Layout
from nam.types import Generation, Spans, Target

WIDTH, HIDDEN, TOKENS = 3, 2, 4


class Block(nn.Module):
    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.fc1 = nn.Linear(HIDDEN, WIDTH, bias=False)
        self.fc2 = nn.Linear(WIDTH, HIDDEN, bias=False)
        self.activation = activation

    def forward(self, hidden_states: Tensor) -> Tensor:
        out: Tensor = hidden_states + self.fc2(self.activation(self.fc1(hidden_states)))
        return out


class Decoder(nn.Module):
    norm = None

    def __init__(self, second: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Block(torch.relu), Block(second)])


class LanguageModel(nn.Module):
    def __init__(self, second: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.decoder = Decoder(second)
        self.embedding = nn.Embedding(TOKENS, HIDDEN)
        self.head = nn.Linear(HIDDEN, TOKENS, bias=False)
        sizes = SimpleNamespace(num_hidden_layers=2, hidden_size=HIDDEN, ffn_dim=WIDTH)
        self.config = SimpleNamespace(get_text_config=lambda decoder: sizes)

    def get_decoder(self) -> Decoder:
        return self.decoder

    def get_output_embeddings(self) -> nn.Linear:
        return self.head


class HandNet(MLLM):
    """The model with chosen weights, in float64.

    Args:
        second: f, the activation function of the second layer.
    """

    def __init__(self, second: Callable[[Tensor], Tensor]) -> None:
        super().__init__(name="hand", language_model=LanguageModel(second), tokenizer=None)
        first, last = self.language_model.decoder.layers
        weights = {
            self.language_model.embedding: [[1.0, 0.5], [2.0, 1.0], [0.5, 3.0], [1.0, 1.0]],
            first.fc1: [[1.0, 0.0], [0.5, 1.0], [-1.0, -1.0]],  # the third unit never fires
            first.fc2: [[1.0, -0.5, 2.0], [0.5, 1.0, 1.0]],
            last.fc1: [[1.0, 0.5], [0.25, 1.0], [1.0, -0.25]],
            last.fc2: [[0.5, 1.0, -1.0], [-1.0, 0.25, 0.5]],
        }
        for module, values in weights.items():
            module.weight = nn.Parameter(torch.tensor(values))
        self.double().eval().requires_grad_(False)

    def _answer(self, samples: Any, **settings: Any) -> list[Generation]:
        raise NotImplementedError

    def _replay(self, generations: Sequence[Generation]) -> Replayed:
        ids = torch.tensor([generation.token_ids for generation in generations])
        self.announce(Layout.of_mask(torch.ones_like(ids)))
        hidden = self.language_model.embedding(ids)
        for layer in self.language_model.decoder.layers:
            hidden = layer(hidden)
        return Replayed(hidden, torch.ones_like(ids), (0,) * len(ids))


GENERATION = Generation(
    prompt="",
    text="",
    token_ids=(0, 1, 2),
    spans=Spans.of_lengths(system=1, picture=0, text=0, answer=2, img=0),
    finish="stop",
    seed=0,
)

#: The last two tokens, each with a direction of its own.
TARGET = Target(
    modality="text",
    positions=(1, 2),
    directions=torch.tensor([[1.0, -0.5], [0.25, 2.0]], dtype=torch.float64),
    token_ids=(0, 1),
)
