"""GILL's glue: visual tokens, [IMG] tokens and mapper, around a frozen language model and frozen towers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nam.mllm.config import GillConfig
from nam.mllm.decode import last_hidden
from nam.mllm.gill_folder import GLUE_FILE, load_glue, read_gill, write_gill
from nam.mllm.parts import freeze, read_pretrained
from nam.modules.part import Part


class GluePart(Part):
    """Trains what GILL trains (Koh et al. 2023): the linear to the visual tokens, the [IMG] rows of the
    embedding, the mapper; the language model and both CLIP towers stay frozen.

    Losses: the likelihood of the answer and of [IMG0] (when to draw), and the squared error of the mapper to
    the text tower's states for the caption of what is to be drawn, over the states' variance (1 - R2).

    weights_dir: holds language_model and clip. model: GillConfig's fields. start_from: a weights folder whose
    glue is trained on.
    """

    def __init__(
        self, *, model: dict[str, Any], weights_dir: str, start_from: str | None = None, **optimiser: Any
    ) -> None:
        super().__init__(**optimiser)
        from transformers import CLIPTextModel

        self.gill = read_gill(folder=weights_dir, glue="new", config=GillConfig(**model))
        self.gill.vision.get("vision", like=self.gill.visual_embeddings.weight)
        self.text: Any = freeze(read_pretrained(CLIPTextModel, Path(weights_dir) / "clip", torch.float32))
        words = self.gill.language_model.get_input_embeddings().weight[: -len(self.gill.codec.img_ids)]
        if start_from is None:
            rows = self.gill.img_embeds().normal_(words.mean(), words.std())
        else:
            load_glue(self.gill, Path(start_from) / GLUE_FILE)
            rows = self.gill.img_embeds()
        self.img_rows = nn.Parameter(rows)
        self.gill.visual_embeddings.requires_grad_(True)
        self.gill.mapper.requires_grad_(True)

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        hidden = self.hidden(batch)
        answer = batch["answer_mask"][:, 1:]
        logits, labels = self.logits(hidden[:, :-1][answer]), batch["input_ids"][:, 1:][answer]
        likelihood = F.cross_entropy(logits, labels)
        draws = batch["draws"]
        at_signals = hidden[draws, -self.gill.config.num_img_tokens :]
        predicted = self.gill.drawers["image"].conditioning(at_signals, self.img_rows)
        with torch.no_grad():
            wanted = self.text(
                input_ids=batch["caption_ids"], attention_mask=batch["caption_mask"]
            ).last_hidden_state
        unexplained = F.mse_loss(predicted, wanted) / (wanted - wanted.mean(0)).square().mean()
        right = logits.argmax(-1) == labels
        first = labels == self.gill.codec.img_ids[0]
        return {
            "loss": likelihood + unexplained,
            "answer_loss": likelihood,
            "unexplained": unexplained,
            "tokens_right": right.float().mean(),
            "draws_right": (first == (logits.argmax(-1) == self.gill.codec.img_ids[0])).float().mean(),
        }

    def hidden(self, batch: dict[str, Tensor]) -> Tensor:
        """Last hidden states (B, T, H), the [IMG] rows in training put in place of the model's own."""
        pixels = batch["pixels"] if len(batch["pixels"]) else None
        embeds, mask, positions = self.gill.embed_prompt(batch["input_ids"], batch["attention_mask"], pixels)
        first = self.gill.codec.img_ids[0]
        is_img = batch["input_ids"] >= first
        rows = self.img_rows[(batch["input_ids"] - first).clamp(min=0)]
        return last_hidden(
            self.gill.language_model, torch.where(is_img[..., None], rows, embeds), mask, positions
        )

    def logits(self, hidden: Tensor) -> Tensor:
        """(N, vocabulary) of hidden states (N, H), with the [IMG] rows in training."""
        words = self.gill.language_model.get_output_embeddings().weight[: self.gill.codec.img_ids[0]]
        return hidden @ torch.cat([words, self.img_rows]).T

    def train(self, mode: bool = True) -> GluePart:
        super().train(mode)
        for frozen in (self.text, self.gill.language_model, self.gill.vision):
            frozen.eval()
        return self

    def export(self, folder: Path) -> None:
        with torch.no_grad():
            self.gill.language_model.get_input_embeddings().weight[list(self.gill.codec.img_ids)] = (
                self.img_rows
            )
        write_gill(self.gill, folder)
