"""The language model of the embedded model, trained on text alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nam.modules.part import Part, save_half
from nam.world.tokenizer import build_tokenizer


class LanguagePart(Part):
    """Trains transformers' OPTForCausalLM on the world's text.

    `model` holds OPTConfig's arguments. Every token is predicted; those of the prompt weigh `prompt_weight`,
    those of the answer 1.
    """

    def __init__(self, *, model: dict[str, Any], prompt_weight: float = 0.2, **optimiser: Any) -> None:
        super().__init__(**optimiser)
        from transformers import OPTConfig, OPTForCausalLM

        self.tokenizer = build_tokenizer()
        ids = {
            name: getattr(self.tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")
        }
        self.model = OPTForCausalLM(OPTConfig(**model, **ids, vocab_size=len(self.tokenizer)))
        self.prompt_weight = prompt_weight

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        ids, mask, answer = batch["input_ids"], batch["attention_mask"], batch["answer_mask"][:, 1:]
        logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].float()
        loss = F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        weight = torch.where(answer, 1.0, self.prompt_weight) * mask[:, 1:]
        wrong = (logits.argmax(-1) != ids[:, 1:]) & answer
        asked = batch["prompted"]
        return {
            "loss": (loss * weight).sum() / weight.sum(),
            "answer_loss": loss[answer].mean(),
            "answers_right": 1 - wrong[asked].any(1).float().mean(),  # whole answers, teacher-forced
        }

    def export(self, folder: Path) -> None:
        save_half(self.model, folder / "language_model")
        self.tokenizer.save_pretrained(folder / "language_model")
