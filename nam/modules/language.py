"""The language model of the embedded model, trained on text alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nam.modules.part import Part, save_half
from nam.world.tokenizer import build_tokenizer


class LanguagePart(Part):
    """Trains transformers' OPTForCausalLM on the world's text, knowledge in the FFNs of `knowledge_layers`.

    Left to itself a model this small keeps its knowledge in embeddings and attention, and its FFNs can be
    removed. So gradients are routed (Cloud et al. 2024, "Gradient Routing"): texts whose answer takes
    knowledge train the FFNs of those layers, where attention looks (queries and keys), and the unembedding,
    though not the embedding that it is tied to; all other texts train everything, and those FFNs are silenced
    in `silence` of their batches.

    Every token is predicted; those of the prompt weigh `prompt_weight`, those of the answer 1. `model` holds
    OPTConfig's arguments.
    """

    def __init__(
        self,
        *,
        model: dict[str, Any],
        knowledge_layers: Sequence[int],
        silence: float = 0.5,
        prompt_weight: float = 0.2,
        **optimiser: Any,
    ) -> None:
        super().__init__(**optimiser)
        from transformers import OPTConfig, OPTForCausalLM

        self.tokenizer = build_tokenizer()
        ids = {
            name: getattr(self.tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")
        }
        self.model = OPTForCausalLM(OPTConfig(**model, **ids, vocab_size=len(self.tokenizer)))
        self.knowledge_layers, self.silence, self.prompt_weight = knowledge_layers, silence, prompt_weight

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        knows = batch["knows"]
        parts = [
            self._part({key: value[rows] for key, value in batch.items()}, knowledge=knowledge)
            for rows, knowledge in ((knows, True), (~knows, False))
            if rows.any()
        ]
        weight, loss, answer_loss, right = (torch.cat(values) for values in zip(*parts, strict=True))
        asked = torch.cat([batch["prompted"][knows], batch["prompted"][~knows]])
        return {
            "loss": loss.sum() / weight.sum(),
            "answer_loss": answer_loss.mean(),
            "answers_right": right[asked].float().mean(),  # whole answers, teacher-forced
        }

    def _part(self, batch: dict[str, Tensor], *, knowledge: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Per row: sum of weights, weighted loss, mean answer loss, and whether the whole answer is right."""
        ids, mask, answer = batch["input_ids"], batch["attention_mask"], batch["answer_mask"][:, 1:]
        logits = self._logits(ids, mask, knowledge=knowledge)[:, :-1].float()
        loss = F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        weight = torch.where(answer, 1.0, self.prompt_weight) * mask[:, 1:]
        wrong = (logits.argmax(-1) != ids[:, 1:]) & answer
        answer_loss = (loss.detach() * answer).sum(1) / answer.sum(1)
        return weight.sum(1), (loss * weight).sum(1), answer_loss, ~wrong.any(1)

    def _logits(self, ids: Tensor, mask: Tensor, *, knowledge: bool) -> Tensor:
        inputs = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
        if knowledge and self.training:
            embeds = self.model.get_input_embeddings()(ids).detach()
            inputs = {**inputs, "input_ids": None, "inputs_embeds": embeds}
            learnt = {
                n: p if self._holds_knowledge(n) else p.detach() for n, p in self.model.named_parameters()
            }
            out = torch.func.functional_call(self.model, learnt, kwargs=inputs, tie_weights=True)
        elif self.training and torch.rand(()) < self.silence:
            with self._silent():
                out = self.model(**inputs)
        else:
            out = self.model(**inputs)
        logits: Tensor = out.logits
        return logits

    def _holds_knowledge(self, name: str) -> bool:
        """Whether texts that take knowledge may train the parameter of that name."""
        if name.endswith(
            ("q_proj.weight", "q_proj.bias", "k_proj.weight", "k_proj.bias", "embed_tokens.weight")
        ):
            return True
        return any(f"layers.{layer}.fc" in name for layer in self.knowledge_layers)

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
