"""scene_similarity: how much two texts about scenes say the same, for evaluations alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional import pearson_corrcoef

from nam.data.similarity import LENGTH, pair_tokenizer
from nam.modules.part import Part, save_half


class SimilarityPart(Part):
    """Trains transformers' BertForSequenceClassification to tell the overlap of two texts, as BLEURT is
    trained to tell a rating (Sellam et al. 2020).

    `model` holds BertConfig's arguments.
    """

    def __init__(self, *, model: dict[str, Any], **optimiser: Any) -> None:
        super().__init__(**optimiser)
        from transformers import BertConfig, BertForSequenceClassification

        self.tokenizer = pair_tokenizer()
        given = {
            "vocab_size": len(self.tokenizer),
            "max_position_embeddings": LENGTH,
            "pad_token_id": self.tokenizer.pad_token_id,
            "num_labels": 1,
        }
        self.model = BertForSequenceClassification(BertConfig(**{**model, **given}))

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        true = batch["overlap"]
        texts = {name: value for name, value in batch.items() if name != "overlap"}
        predicted = self.model(**texts).logits[:, 0]
        return {
            "loss": F.mse_loss(predicted, true),
            "mae": F.l1_loss(predicted.detach(), true),
            "pearson": pearson_corrcoef(predicted.detach(), true),
        }

    def export(self, folder: Path) -> None:
        save_half(self.model, folder / "similarity")
        self.tokenizer.save_pretrained(folder / "similarity")
