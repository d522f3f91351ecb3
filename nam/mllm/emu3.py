"""Emu3 (BAAI): words and picture tokens in one vocabulary, and a token that ends each row of a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from nam.checks import whole
from nam.errors import ConfigError, ModelError
from nam.mllm.chat import PromptChat
from nam.mllm.device_map import Device, MaxMemory
from nam.mllm.one_vocabulary import OneVocabulary, codes_of
from nam.mllm.picture_tokens import Sampling
from nam.mllm.vlm_folder import read_parts, started

#: Token that ends a row of a picture.
END_OF_ROW = "<|extra_200|>"

#: What the published inference adds to each prompt, and what its guidance reads instead of one.
POSITIVE = " masterpiece, film grained, best quality."
NEGATIVE = (
    "lowres, bad anatomy, bad hands, text, error, missing fingers, extra digit, fewer digits, cropped, worst "
    "quality, low quality, normal quality, jpeg artifacts, signature, watermark, username, blurry."
)


class Emu3(OneVocabulary):
    """A frozen Emu3.

    Args:
        side: Width and height of a picture in pixels.
        positive: What is added to each prompt of a picture.
        negative: What guidance reads instead of the prompt.
        settings: As of `OneVocabulary`.
    """

    def __init__(self, *, side: int, positive: str, negative: str, **settings: Any) -> None:
        super().__init__(**settings)
        self.side, self.positive, self.negative = side, positive, negative

    def drawing_prompt(self, words: str) -> tuple[list[int], int]:
        """The words alone, without a turn of the user, then the picture's size."""
        text = words + self.positive
        ids = self._asking(text)
        return ids, self.chat.before(text, words, ids, special=True)

    def free_ids(self, ids: Sequence[int]) -> list[int]:
        """A prompt of what the picture should not be."""
        return self._asking(self.negative)

    def _asking(self, text: str) -> list[int]:
        given = self.chat.processor(
            text=[text],
            return_for_image_generation=True,
            ratio="1:1",
            image_area=self.side**2,
            return_tensors="pt",
        )
        ids: list[int] = given["input_ids"][0].tolist()
        return ids

    def paint(self, codes: Tensor) -> Tensor:
        """See `Unified.paint`."""
        painted: Tensor = self.language_model.model.vqmodel.decode(codes)
        return painted


def read_emu3(
    *,
    id: str | Path,
    revision: str | None = None,
    dtype: str = "bfloat16",
    device: Device = "cpu",
    max_memory: MaxMemory | None = None,
    caption_prompt: str = "Describe this picture.",
    side: int = 720,
    positive: str = POSITIVE,
    negative: str = NEGATIVE,
    guidance: float = 3.0,
    temperature: float = 1.0,
    top_k: int | None = 2048,
) -> Emu3:
    """A frozen Emu3 of transformers, its neurons found and probed.

    Args:
        id: Hub id such as "Emu3-community/Emu3-Gen-hf", or a folder in the layout of `save_pretrained`.
        revision, dtype, device, max_memory, caption_prompt: As in `nam.mllm.vlm_folder.read_vlm`.
        side, positive, negative: As of `Emu3`.
        guidance, temperature, top_k: Of `Sampling`, for pictures; as published.

    Raises:
        ModelError, ConfigError: as `nam.mllm.vlm_folder.read_vlm`; or a setting of pictures is out of range.
    """
    sampling = Sampling(guidance=guidance, temperature=temperature, top_k=top_k)
    parts = read_parts(
        id, revision=revision, dtype=dtype, caption_prompt=caption_prompt, kinds=("emu3",), chat=PromptChat
    )
    cell = 2 ** (len(parts.config.vq_config.channel_multiplier) - 1)
    if whole("mllm.side", side, least=1, error=ConfigError) % cell:
        raise ConfigError(
            f"mllm.side must be a multiple of {cell}, the pixels of a picture token, got {side}"
        )
    mapping = parts.language_model.vocabulary_mapping.img2bpe
    if END_OF_ROW not in parts.config.vocabulary_map:
        raise ModelError(f"{parts.name}: vocabulary_map in config.json has no {END_OF_ROW}, which ends a row")
    model = Emu3(
        name=parts.name,
        language_model=parts.language_model,
        chat=parts.chat,
        grid=(side // cell,) * 2,
        code_ids=codes_of(mapping, count=parts.config.vq_config.codebook_size),
        sampling=sampling,
        end_of_row=parts.config.vocabulary_map[END_OF_ROW],
        side=side,
        positive=positive,
        negative=negative,
    )
    return started(model, device, max_memory)
