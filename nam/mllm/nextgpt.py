"""NExT-GPT (Wu et al. 2024): an LM that sees through ImageBind and draws through signal tokens."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from nam.errors import ModelError
from nam.mllm.diffusion import Diffusion
from nam.mllm.drawer import Drawer
from nam.mllm.mapper import GILLMapper
from nam.mllm.nextgpt_config import NextGPTCodec, NextGPTConfig
from nam.mllm.nextgpt_state import write_state
from nam.mllm.parts import LazyParts
from nam.mllm.signals import SignalMLLM
from nam.mllm.sound import SoundDiffusion
from nam.mllm.video import VideoDiffusion
from nam.types import Medium


class NextGPT(SignalMLLM):
    """A frozen NExT-GPT that answers in words and pictures, sounds or videos.

    It is GILL's architecture with one soft token a picture, four [IMG] tokens, and the same again for videos
    and sounds. See `SignalMLLM` for the other arguments.

    Args:
        audio, video: Generators of sounds and videos; None: the model never announces one. Their mappers are
            there all the same.

    Raises:
        ModelError: the language model shares its embedding with its unembedding.
    """

    config: NextGPTConfig

    def __init__(
        self,
        *,
        name: str,
        config: NextGPTConfig,
        language_model: Any,
        codec: NextGPTCodec,
        vision: LazyParts,
        diffusion: Diffusion,
        audio: SoundDiffusion | None = None,
        video: VideoDiffusion | None = None,
    ) -> None:
        if language_model.config.get_text_config(decoder=True).tie_word_embeddings:
            raise ModelError("NExT-GPT has an embedding and an unembedding: its language model ties the two")
        language_model.resize_token_embeddings(len(codec.tokenizer), mean_resizing=False)
        super().__init__(
            name=name,
            config=config,
            language_model=language_model,
            codec=codec,
            vision=vision,
            diffusion=diffusion,
        )
        self.video_mapper = self.new_mapper(config.video_emb_dim, config.num_clip_tokens)
        self.audio_mapper = self.new_mapper(config.audio_emb_dim, 1)
        self.audio, self.video = audio, video

    @property
    def drawers(self) -> dict[Medium, Drawer]:
        others: tuple[tuple[Medium, GILLMapper, Diffusion | None], ...] = (
            ("video", self.video_mapper, self.video),
            ("audio", self.audio_mapper, self.audio),
        )
        return super().drawers | {
            medium: Drawer(mapper, diffusion, partial(self.signal_embeds, medium))
            for medium, mapper, diffusion in others
            if diffusion is not None
        }

    def see(self, pixels: Tensor) -> Tensor:
        """ImageBind's embedding, of length 1."""
        seen: Tensor = self.vision.get("vision", like=pixels)(pixels)
        return seen

    def load_published(self, state: Mapping[str, Tensor]) -> None:
        """Take over a published checkpoint's tensors; see `nam.mllm.nextgpt_state.write_state`.

        To be called once: the low-rank changes are added to the language model's weights.
        """
        write_state(self, state)
