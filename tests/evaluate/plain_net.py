"""A net to plant into whose every effect can be worked out: two FFN layers on a residual stream of 8
dimensions, no attention, no norms.

The last dimension is the target. Only one neuron of the first layer writes it, 0.5 for the concept's token;
the second layer's neurons read all of the stream and write dimension 6 alone, which nothing reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from nam.mllm.base import MLLM, Replayed
from nam.mllm.layout import Layout
from nam.types import Generation, Spans, Target

WIDTH, HIDDEN, TOKENS = 12, 8, 6

#: What the model's own neuron with the largest contribution adds to the target.
UNIT = 0.5

#: The concept's token.
CONCEPT = 0


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(HIDDEN, WIDTH)
        self.fc2 = nn.Linear(WIDTH, HIDDEN, bias=False)

    def forward(self, hidden_states: Tensor) -> Tensor:
        out: Tensor = hidden_states + self.fc2(torch.relu(self.fc1(hidden_states)))
        return out


class Decoder(nn.Module):
    norm = None

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Block(), Block()])


class LanguageModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.decoder = Decoder()
        self.embedding = nn.Embedding(TOKENS, HIDDEN)
        self.head = nn.Linear(HIDDEN, TOKENS, bias=False)
        sizes = SimpleNamespace(num_hidden_layers=2, hidden_size=HIDDEN, ffn_dim=WIDTH)
        self.config = SimpleNamespace(get_text_config=lambda decoder: sizes)

    def get_decoder(self) -> Decoder:
        return self.decoder

    def get_output_embeddings(self) -> nn.Linear:
        return self.head


class PlainNet(MLLM):
    """The net, in float64."""

    def __init__(self) -> None:
        super().__init__(name="plain", language_model=LanguageModel(), tokenizer=None)
        self.double().eval().requires_grad_(False)
        draw = torch.Generator().manual_seed(0)
        model = self.language_model
        model.embedding.weight[:, :6] = torch.randn(TOKENS, 6, generator=draw, dtype=torch.float64)
        model.embedding.weight[:, 6:] = 0
        first, last = model.decoder.layers
        for block in (first, last):
            block.fc1.weight[:] = torch.randn(WIDTH, HIDDEN, generator=draw, dtype=torch.float64)
            block.fc1.bias[:] = 0.1
            block.fc2.weight[:] = 0
        last.fc2.weight[6] = torch.randn(WIDTH, generator=draw, dtype=torch.float64)
        first.fc2.weight[6] = torch.randn(WIDTH, generator=draw, dtype=torch.float64)
        # Neuron 0 of the first layer fires at 1 for the concept alone, and writes the target.
        x = model.embedding.weight[CONCEPT]
        first.fc1.weight[0] = 4 * x / (x @ x)
        first.fc1.bias[0] = -3
        first.fc2.weight[:, 0] = torch.eye(HIDDEN, dtype=torch.float64)[7] * UNIT

    def _answer(self, samples: Any, **settings: Any) -> list[Generation]:
        raise NotImplementedError

    def _replay(self, generations: Sequence[Generation]) -> Replayed:
        ids = torch.tensor([generation.token_ids for generation in generations])
        self.announce(Layout.of_mask(torch.ones_like(ids)))
        hidden = self.language_model.embedding(ids)
        for layer in self.language_model.decoder.layers:
            hidden = layer(hidden)
        return Replayed(hidden, torch.ones_like(ids), (0,) * len(ids))


def answer(*tokens: int) -> Generation:
    """An answer of these tokens."""
    spans = Spans.of_lengths(system=0, picture=0, text=1, answer=len(tokens) - 1, img=0)
    return Generation(prompt="", text="", token_ids=tokens, spans=spans, finish="stop", seed=0)


#: The concept's token is at position 1, and is followed by token 3.
TARGET = Target(
    modality="text",
    positions=(1,),
    directions=torch.eye(HIDDEN, dtype=torch.float64)[7:],
    token_ids=(3,),
)
