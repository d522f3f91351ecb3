"""CLIPScore: how well words fit a picture (Hessel et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nam.errors import InputError, ModelError
from nam.evaluate.checkpoints import (
    Checkpoint,
    column,
    find_checkpoint,
    read_checkpoint_tokenizer,
    read_model,
)
from nam.mllm.config import CONFIG_FILE, GillConfig
from nam.mllm.diffusion import CAPTION_END, CAPTION_START
from nam.mllm.pictures import Picture, read_picture

#: The paper's w, which stretches the cosines of matching pairs over 0 to 1.
WEIGHT = 2.5

_BATCH = 128


def clip_score(texts: Tensor, pictures: Tensor, *, weight: float = WEIGHT) -> Tensor:
    """weight * max(cos(text, picture), 0) of embeddings (..., D), which broadcast: (...)."""
    return weight * F.cosine_similarity(texts, pictures, dim=-1).clamp(min=0)


@dataclass(frozen=True, eq=False, kw_only=True)
class ClipScore:
    """CLIPScore by one checkpoint.

    Attributes:
        model: transformers' CLIPModel, frozen.
        tokenizer: Of its text tower, with `<|startoftext|>` and `<|endoftext|>`.
        processor: An image processor: PIL pictures to pixel values.
        checkpoint: What tables call the model.
        prefix: Goes before every text (Hessel et al.: "A photo depicts "; the NAM paper does not say).
        weight: See `clip_score`.
    """

    model: Any
    tokenizer: Any
    processor: Any
    checkpoint: str
    prefix: str = ""
    weight: float = WEIGHT

    @property
    def column(self) -> str:
        """The name of its column: "clipscore[tiny_gill]"."""
        prefix = self.prefix.strip() or None
        return column(
            "clipscore", self.checkpoint, prefix=prefix, weight=None if self.weight == WEIGHT else self.weight
        )

    def __call__(self, texts: Sequence[str], pictures: Sequence[Picture]) -> Tensor:
        """The score of each text with its picture, float32 (B,); one picture alone goes with every text.

        Raises:
            InputError: numbers that do not fit, or a picture that cannot be read.
        """
        if len(pictures) not in (1, len(texts)):
            raise InputError(
                f"expected one picture or one a text, got {len(pictures)} for {len(texts)} texts"
            )
        return clip_score(self.embed_texts(texts), self.embed_pictures(pictures), weight=self.weight)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings (B, D) in CLIP's common space, float32 on the CPU; too long a text loses its end."""
        # The towers are called one by one: what get_text_features returns changed between releases.
        found = []
        for ids, mask in self._read(texts):
            pooled = self.model.text_model(input_ids=ids, attention_mask=mask).pooler_output
            found.append(self.model.text_projection(pooled))
        return _joined(found, self.model)

    @torch.no_grad()
    def embed_pictures(self, pictures: Sequence[Picture]) -> Tensor:
        """Embeddings (B, D) in CLIP's common space, float32 on the CPU.

        Raises:
            InputError: a picture cannot be read.
        """
        found = []
        for start in range(0, len(pictures), _BATCH):
            some = [read_picture(picture) for picture in pictures[start : start + _BATCH]]
            pixels = self.processor(images=some, return_tensors="pt")["pixel_values"].to(self.model.device)
            found.append(
                self.model.visual_projection(self.model.vision_model(pixel_values=pixels).pooler_output)
            )
        return _joined(found, self.model)

    def _read(self, texts: Sequence[str]) -> list[tuple[Tensor, Tensor]]:
        """Token ids and attention mask of each batch: start, words, end, padding."""
        start, end = self.tokenizer.convert_tokens_to_ids([CAPTION_START, CAPTION_END])
        room = self.model.config.text_config.max_position_embeddings - 2
        whole = [f"{self.prefix}{text}" for text in texts]
        rows = self.tokenizer(whole, add_special_tokens=False)["input_ids"] if whole else []
        rows = [[start, *row[:room], end] for row in rows]
        batches = []
        for first in range(0, len(rows), _BATCH):
            some = rows[first : first + _BATCH]
            length = max(map(len, some))
            # Padding is masked, and stands after the end that is read: any token will do.
            ids = torch.tensor([row + [end] * (length - len(row)) for row in some])
            mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in some])
            batches.append((ids.to(self.model.device), mask.to(self.model.device)))
        return batches


def load_clipscore(
    checkpoint: str | Path = "tiny_gill", *, prefix: str = "", weight: float = WEIGHT, device: str = "cpu"
) -> ClipScore:
    """CLIPScore by a hub id, a folder with a CLIP, or a GILL's folder, whose `clip/` is read.

    Raises:
        ModelError: there is no such checkpoint, or it is damaged.
        ConfigError: there is no such device.
    """
    from transformers import CLIPModel

    found = find_checkpoint(checkpoint, part="clip")
    return ClipScore(
        model=read_model(CLIPModel, found, device=device),
        tokenizer=read_checkpoint_tokenizer(found),
        processor=_processor(found),
        checkpoint=found.name,
        prefix=prefix,
        weight=weight,
    )


def _processor(checkpoint: Checkpoint) -> Any:
    """The checkpoint's own image processor; a GILL's folder says in its config how its CLIP sees."""
    from transformers import CLIPImageProcessorPil

    source = checkpoint.source
    if isinstance(source, Path) and not (source / "preprocessor_config.json").is_file():
        if not (source.parent / CONFIG_FILE).is_file():
            raise ModelError(f"{source} does not say how its CLIP sees: preprocessor_config.json is missing")
        config = GillConfig.load(source.parent)
        size = {"height": config.image_size, "width": config.image_size}
        mean, std = list(config.image_mean), list(config.image_std)
        return CLIPImageProcessorPil(size=size, do_center_crop=False, image_mean=mean, image_std=std)
    try:
        return CLIPImageProcessorPil.from_pretrained(source, local_files_only=checkpoint.local)
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read the image processor of {source}: {error}") from error


def _joined(parts: list[Tensor], model: Any) -> Tensor:
    if not parts:
        return torch.zeros(0, model.config.projection_dim)
    return torch.cat(parts).float().cpu()
