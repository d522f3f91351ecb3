"""GILL (Koh et al. 2023): an LM that sees through visual tokens and draws through [IMG] tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from nam.mllm.config import GillConfig
from nam.mllm.diffusion import Diffusion
from nam.mllm.gill_state import read_state, retrieval_head, write_state
from nam.mllm.parts import LazyParts
from nam.mllm.prompts import PromptCodec
from nam.mllm.signals import SignalMLLM


class GILL(SignalMLLM):
    """A frozen GILL: see `SignalMLLM` for its arguments.

    The [IMG] tokens are the last rows of the (tied) embedding of OPTForCausalLM, or of a causal LM like it.
    """

    def __init__(
        self,
        *,
        name: str,
        config: GillConfig,
        language_model: Any,
        codec: PromptCodec,
        vision: LazyParts,
        diffusion: Diffusion,
    ) -> None:
        super().__init__(
            name=name,
            config=config,
            language_model=language_model,
            codec=codec,
            vision=vision,
            diffusion=diffusion,
        )
        hidden = language_model.get_input_embeddings().embedding_dim
        self.retrieval = retrieval_head(config, hidden) if config.ret_emb_dim else None

    def see(self, pixels: Tensor) -> Tensor:
        """CLIP's pooled output."""
        pooled: Tensor = self.vision.get("vision", like=pixels)(pixel_values=pixels).pooler_output
        return pooled

    def gill_state_dict(self) -> dict[str, Tensor]:
        """What GILL trains, under the names of its published checkpoint; [IMG] rows, not the embedding."""
        return read_state(self)

    def load_gill_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `gill_state_dict` gives, in any precision; see `nam.mllm.gill_state.write_state`."""
        write_state(self, state)
