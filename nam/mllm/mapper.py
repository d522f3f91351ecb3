"""GILLMapper: from the LM's last hidden states to the conditioning of the picture generator."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GILLMapper(nn.Module):
    """The mapper of GILL (Koh et al. 2023, "Generating Images with Multimodal Language Models").

    A linear to the mapper's width, an encoder-decoder transformer whose decoder reads learnt queries, a
    linear to the conditioning's width; no positional encoding. Parameter names are those of the published
    checkpoint (`fc`, `tfm`, `query_embs`, `model`). GILL's own sizes: 4096 -> 512 -> 768, 77 queries,
    4 + 4 layers, 4 heads.

    Args:
        in_dim: Hidden size H of the language model.
        out_dim: Width E of the conditioning.
        num_queries: Positions Q of the conditioning.
        dim: Width of the transformer; its FFNs are four times as wide.
        layers: Layers of the encoder, and of the decoder.
        heads: Attention heads.
    """

    def __init__(
        self, *, in_dim: int, out_dim: int, num_queries: int, dim: int = 512, layers: int = 4, heads: int = 4
    ) -> None:
        super().__init__()
        self.fc = nn.Linear(in_dim, dim)
        layer = nn.TransformerEncoderLayer(
            dim, heads, dim_feedforward=4 * dim, dropout=0.0, batch_first=True, norm_first=True
        )
        # The encoder that nn.Transformer would build, but for its nested tensors: they cannot be used with
        # norm_first, and asking for them warns.
        encoder = nn.TransformerEncoder(layer, layers, nn.LayerNorm(dim), enable_nested_tensor=False)
        self.tfm = nn.Transformer(
            d_model=dim,
            nhead=heads,
            custom_encoder=encoder,
            num_decoder_layers=layers,
            dim_feedforward=4 * dim,
            dropout=0.0,
            batch_first=True,
            norm_first=True,
        )
        self.query_embs = nn.Parameter(torch.randn(1, num_queries, dim))
        self.model = nn.Linear(dim, out_dim)

    def forward(self, hidden: Tensor, input_embeds: Tensor) -> Tensor:
        """Conditioning (B, Q, E) from last hidden states and input embeddings at the [IMG] positions.

        Args:
            hidden: Last hidden states, (B, 8, H).
            input_embeds: Input embeddings of the same tokens, (B, 8, H) or (8, H).
        """
        memory = self.fc(hidden + input_embeds)
        queries = self.query_embs.expand(len(memory), -1, -1)
        return self.model(self.tfm(memory, queries))
