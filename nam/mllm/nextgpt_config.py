"""Sizes and conventions of NExT-GPT, and how its prompts are laid out (Wu et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nam.errors import ModelError
from nam.mllm.config import CLIP_MEAN, CLIP_STD, GillConfig
from nam.mllm.prompts import PromptCodec
from nam.types import PICTURE_ID

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Stand around each picture.
PICTURE_START, PICTURE_END = "<Img>", "</Img>"

#: Begins a prompt, and what follows an answer.
HUMAN, ASSISTANT, TURN = "### Human:", "\n### Assistant:", "###"


@dataclass(frozen=True, kw_only=True)
class NextGPTConfig(GillConfig):
    """Sizes and conventions of a NExT-GPT; the defaults are those of the published 7b_tiva_v0.

    Attributes:
        num_video_tokens, num_audio_tokens: [VID0], ... and [AUD0], ... in the vocabulary.
        video_emb_dim, audio_emb_dim: Widths of the conditionings of videos, at `num_clip_tokens` positions,
            and of sounds, at one.
        audio_seconds: How long a sound is.
        video_frames, video_size: Frames of a video; their height and width in pixels.
        lora_rank, lora_alpha: Of the low-rank changes of the attention, which are multiplied by alpha / rank.
    """

    vision_dim: int = 1024
    n_visual_tokens: int = 1
    num_img_tokens: int = 4
    num_video_tokens: int = 24
    num_audio_tokens: int = 8
    num_clip_tokens: int = 77
    gen_emb_dim: int = 768
    video_emb_dim: int = 1024
    audio_emb_dim: int = 512
    audio_seconds: float = 9.0
    video_frames: int = 24
    video_size: tuple[int, int] = (320, 576)
    mapper_dim: int = 512
    mapper_layers: int = 4
    lora_rank: int = 32
    lora_alpha: float = 32.0
    image_size: int = 224
    image_fit: str = "crop"
    image_mean: tuple[float, ...] = CLIP_MEAN
    image_std: tuple[float, ...] = CLIP_STD
    steps: int = 50
    guidance: float = 7.5
    text_tower: str = "text_encoder"
    text_tokenizer: str | None = "tokenizer"
    mask_captions: bool = False
    extra_tokens: tuple[str, ...] = (PICTURE_START, PICTURE_END)
    end_words: tuple[str, ...] = (TURN,)
    prompt_ends: str = ""
    behind_prompt: str = ASSISTANT
    caption_prompt: str = "Describe this picture."

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_video_tokens", "num_audio_tokens", "video_emb_dim", "audio_emb_dim", "lora_rank"):
            if getattr(self, name) < 1:
                raise ModelError(f"{name} of a NExT-GPT must be at least 1, got {getattr(self, name)}")

    @property
    def video_tokens(self) -> tuple[str, ...]:
        """[VID0], [VID1], ..."""
        return tuple(f"[VID{i}]" for i in range(self.num_video_tokens))

    @property
    def audio_tokens(self) -> tuple[str, ...]:
        """[AUD0], [AUD1], ..."""
        return tuple(f"[AUD{i}]" for i in range(self.num_audio_tokens))

    @property
    def new_tokens(self) -> tuple[str, ...]:
        """As of GILL; the signals of videos and sounds come last."""
        return (*super().new_tokens, *self.video_tokens, *self.audio_tokens)


class NextGPTCodec(PromptCodec):
    """Prompts of one turn: "### Human:", pictures between <Img> and </Img>, words, "### Assistant:".

    An answer ends with "###", the beginning of the next turn, of which the tokenizer makes one token behind a
    blank and several behind a line's end: the first of them ends the answer too.

    Args:
        tokenizer: LLaMA's, as a fast one; padding becomes the end token, as published.
        config: The model's conventions.

    Raises:
        ModelError: as `PromptCodec`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: NextGPTConfig) -> None:
        tokenizer.pad_token = tokenizer.eos_token
        super().__init__(tokenizer, config)
        start, end = (self._id(token) for token in (PICTURE_START, PICTURE_END))
        self.begin_ids = (self.bos_id, *self._word_ids(HUMAN))
        self.picture_ids = (start, *[PICTURE_ID] * config.n_visual_tokens, end)
        self.banned_ids = (start, end)
        self.signals["video"] = tuple(map(self._id, config.video_tokens))
        self.signals["audio"] = tuple(map(self._id, config.audio_tokens))
        line, turn = (self._word_ids(words) for words in ("\n", f"\n{TURN}"))
        self.end_ids = tuple(dict.fromkeys((*self.end_ids, turn[len(line)])))
