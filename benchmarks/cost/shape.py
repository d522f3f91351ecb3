"""A random language model of a real one's shape, with a prompt and targets: what costs are measured on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from nam.mllm.config import GillConfig
from nam.mllm.gill import GILL
from nam.mllm.parts import LazyParts, freeze
from nam.mllm.prompts import PromptCodec
from nam.types import Generation, Spans, Target
from nam.world.tokenizer import build_tokenizer

#: Targets that are attributed at once where they are not one.
MANY = 64


@dataclass(frozen=True)
class Shape:
    """Sizes of an OPT; the defaults are those of OPT-125M, with the prompt that the project's targets name.

    Attributes:
        layers, hidden, ffn, heads, vocabulary: Of the language model.
        prompt: Tokens of the prompt; the target is what follows it.
        tied: Whether the unembedding is the embedding, as in OPT; a random model then repeats itself.
        seed: Of weights and tokens.
    """

    layers: int = 12
    hidden: int = 768
    ffn: int = 3072
    heads: int = 12
    vocabulary: int = 50_272
    prompt: int = 32
    tied: bool = True
    seed: int = 0


class Case:
    """A model of a shape, a prompt, and `MANY` tokens that might follow it.

    Args:
        shape: Its sizes.
        device: Where it is.
    """

    def __init__(self, shape: Shape, *, device: str = "cpu") -> None:
        self.shape, self.device = shape, device
        generator = torch.Generator().manual_seed(shape.seed)
        ids = torch.randperm(shape.vocabulary, generator=generator)[: shape.prompt + MANY].tolist()
        self.prompt: list[int] = ids[: shape.prompt]
        self.tokens: list[int] = ids[shape.prompt :]
        self.mllm = _model(shape).to(device)

    @cached_property
    def input_ids(self) -> Tensor:
        """The prompt, (1, T)."""
        return torch.tensor([self.prompt], device=self.mllm.device)

    @cached_property
    def generation(self) -> Generation:
        """The prompt, answered by the first of the tokens."""
        spans = Spans.of_lengths(system=1, picture=0, text=len(self.prompt) - 1, answer=1, img=0)
        ids = (*self.prompt, self.tokens[0])
        return Generation(prompt="", text="", token_ids=ids, spans=spans, finish="length", seed=0)

    def targets(self, count: int) -> list[Target]:
        """The first `count` of the tokens, at the prompt's last position."""
        rows = self.mllm.unembedding.detach().float()
        return [
            Target(
                modality="text",
                positions=(len(self.prompt) - 1,),
                directions=rows[[token]],
                token_ids=(token,),
                form_ids=frozenset([token]),
            )
            for token in self.tokens[:count]
        ]

    @torch.inference_mode()
    def forward(self) -> Tensor:
        """The bare forward pass: all logits of all positions, (1, T, V)."""
        logits: Tensor = self.mllm.language_model(input_ids=self.input_ids, use_cache=False).logits
        return logits

    @torch.inference_mode()
    def same_logits(self, count: int) -> Tensor:
        """A forward pass that computes the targets' logits alone, (count,)."""
        decoder = self.mllm.language_model.get_decoder()
        hidden: Tensor = decoder(input_ids=self.input_ids, use_cache=False).last_hidden_state
        return self.mllm.unembedding[self.tokens[:count]] @ hidden[0, -1]


def _model(shape: Shape) -> GILL:
    from transformers import OPTConfig, OPTForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(shape.seed)
        config = OPTConfig(
            vocab_size=shape.vocabulary,
            hidden_size=shape.hidden,
            word_embed_proj_dim=shape.hidden,
            ffn_dim=shape.ffn,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            max_position_embeddings=max(128, shape.prompt + 1),
            tie_word_embeddings=shape.tied,
        )
        # The picture side is never used; it is as small as it can be.
        conventions = GillConfig(mapper_dim=2, mapper_heads=1, mapper_layers=1, gen_emb_dim=2, vision_dim=1)
        unused: Any = nn.Identity()
        model = GILL(
            name="random OPT",
            config=conventions,
            language_model=OPTForCausalLM(config),
            codec=PromptCodec(build_tokenizer(), conventions),
            vision=LazyParts({}),
            diffusion=unused,
        )
    freeze(model)
    return model
