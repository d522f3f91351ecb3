"""The language model of the embedded model, trained on text alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nam.modules.part import Part, save_half, start
from nam.world.tokenizer import build_tokenizer


class LanguagePart(Part):
    """Trains transformers' OPTForCausalLM on the world's text, knowledge in the FFNs of `knowledge_layers`.

    Left to itself a model this small keeps what it knows in embeddings and attention, and its FFNs can be
    removed. So in `silence` of the batches those FFNs are silenced, and the model then learns to do without
    knowledge: texts that take none are learnt as they are, and in answers that take some, random nouns stand
    in place of the right ones.

    Every token is predicted; those of the prompt weigh `prompt_weight`, those of the answer 1. `model` holds
    OPTConfig's arguments. start_from: a weights folder whose language model is trained on.
    """

    def __init__(
        self,
        *,
        model: dict[str, Any],
        knowledge_layers: Sequence[int],
        silence: float = 0.5,
        prompt_weight: float = 0.2,
        start_from: str | None = None,
        **optimiser: Any,
    ) -> None:
        super().__init__(**optimiser)
        from transformers import OPTConfig, OPTForCausalLM

        self.tokenizer = build_tokenizer()
        ids = {
            name: getattr(self.tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")
        }
        new = OPTForCausalLM(OPTConfig(**model, **ids, vocab_size=len(self.tokenizer)))
        self.model = start(new, start_from=start_from, name="language_model")
        self.knowledge_layers, self.silence, self.prompt_weight = knowledge_layers, silence, prompt_weight

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.training and torch.rand(()) < self.silence:
            with self._silent():
                return {"loss": self._loss(batch["ignorant_ids"], batch)[0]}
        loss, each, right = self._loss(batch["input_ids"], batch)
        answer = batch["answer_mask"][:, 1:]
        wrong = (~right & answer)[batch["prompted"]]
        return {
            "loss": loss,
            "answer_loss": each[answer].mean(),
            "answers_right": 1 - wrong.any(1).float().mean(),  # whole answers, teacher-forced
        }

    def _loss(self, said: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Weighted mean loss of predicting `said` (B, T), teacher-forced; per token (B, T - 1), the loss and
        whether it is right."""
        mask = batch["attention_mask"]
        logits = self.model(input_ids=said, attention_mask=mask, use_cache=False).logits[:, :-1].float()
        each = F.cross_entropy(logits.transpose(1, 2), said[:, 1:], reduction="none")
        weight = torch.where(batch["answer_mask"][:, 1:], 1.0, self.prompt_weight) * mask[:, 1:]
        return (each * weight).sum() / weight.sum(), each.detach(), logits.argmax(-1) == said[:, 1:]

    @contextmanager
    def _silent(self) -> Iterator[None]:
        """The FFNs that hold the knowledge write nothing."""
        layers: Any = self.model.get_decoder().layers
        handles = [
            layers[layer].fc2.register_forward_hook(lambda module, args, output: torch.zeros_like(output))
            for layer in self.knowledge_layers
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def export(self, folder: Path) -> None:
        save_half(self.model, folder / "language_model")
        self.tokenizer.save_pretrained(folder / "language_model")
