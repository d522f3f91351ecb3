"""CLIP of the embedded model: the text tower conditions the picture generator, the vision tower sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nam.errors import ModelError
from nam.modules.part import Part, save_half, start
from nam.world.labels import IGNORE, SLOTS
from nam.world.scene import NOUNS, PLACES
from nam.world.tokenizer import TEXT_END, TEXT_START, build_tokenizer


class ClipPart(Part):
    """Trains transformers' CLIPModel: contrastive, plus linear read-outs, without which nouns come late: the
    facts from each tower's pooled state, and from the vision tower's patches what each of them shows.

    `text` and `vision` hold the towers' configurations. start_from: a weights folder whose CLIP is trained
    on. train_text: without it the text tower stays as it is, and so does what a trained U-Net is told.
    """

    def __init__(
        self,
        *,
        text: dict[str, Any],
        vision: dict[str, Any],
        projection_dim: int = 128,
        facts_weight: float = 1.0,
        patches_weight: float = 1.0,
        start_from: str | None = None,
        train_text: bool = True,
        **optimiser: Any,
    ) -> None:
        super().__init__(**optimiser)
        from transformers import CLIPConfig, CLIPModel

        tokenizer = build_tokenizer()
        special = {
            "vocab_size": len(tokenizer),
            "bos_token_id": tokenizer.convert_tokens_to_ids(TEXT_START),
            "eos_token_id": tokenizer.convert_tokens_to_ids(TEXT_END),
            "pad_token_id": tokenizer.pad_token_id,
        }
        config: Any = CLIPConfig(
            text_config={**text, **special}, vision_config=vision, projection_dim=projection_dim
        )
        self.clip = start(CLIPModel(config), start_from=start_from, name="clip")
        words = self.clip.config.text_config.vocab_size
        if words != len(tokenizer):
            raise ModelError(
                f"CLIP in {start_from} knows {words} tokens, the vocabulary has {len(tokenizer)}"
            )
        for tower in (self.clip.text_model, self.clip.text_projection):
            tower.requires_grad_(train_text)
        classes = sum(n for _, n in SLOTS)
        self.picture_facts = nn.Linear(config.vision_config.hidden_size, classes)
        self.caption_facts = nn.Linear(config.text_config.hidden_size, classes)
        self.patches = nn.Linear(config.vision_config.hidden_size, len(NOUNS) + len(PLACES))
        self.facts_weight, self.patches_weight = facts_weight, patches_weight

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        vision = self.clip.vision_model(pixel_values=batch["pixels"])
        seen = vision.pooler_output
        read = self.clip.text_model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
        ).pooler_output
        contrastive = contrastive_loss(
            self.clip.visual_projection(seen),
            self.clip.text_projection(read),
            scale=self.clip.logit_scale.exp().clamp(max=100),
            facts=batch["caption_slots"],
        )
        picture_loss, picture_right = facts_loss(self.picture_facts(seen), batch["picture_slots"])
        caption_loss, caption_right = facts_loss(self.caption_facts(read), batch["caption_slots"])
        patches_loss = F.cross_entropy(
            self.patches(vision.last_hidden_state[:, 1:]).transpose(1, 2),
            patch_shares(batch["classes"], patch=self.clip.config.vision_config.patch_size),
        )
        return {
            "loss": contrastive
            + self.facts_weight * (picture_loss + caption_loss)
            + self.patches_weight * patches_loss,
            "contrastive": contrastive,
            "patches": patches_loss,
            **{f"picture_{name}": right for name, right in picture_right.items()},
            "caption_facts": torch.stack(list(caption_right.values())).mean(),
        }

    def export(self, folder: Path) -> None:
        save_half(self.clip, folder / "clip")
        build_tokenizer().save_pretrained(folder / "clip")


def contrastive_loss(pictures: Tensor, captions: Tensor, *, scale: Tensor, facts: Tensor) -> Tensor:
    """CLIP's symmetric cross-entropy over a batch of (B, D) embeddings (Radford et al. 2021).

    Pairs that say the same `facts` (B, K) as the diagonal are no negatives and left out.
    """
    logits = scale * F.normalize(pictures, dim=-1) @ F.normalize(captions, dim=-1).T
    same = (facts[:, None] == facts[None]).all(-1)
    same.fill_diagonal_(False)
    logits = logits.masked_fill(same, torch.finfo(logits.dtype).min)
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def patch_shares(classes: Tensor, *, patch: int) -> Tensor:
    """(B, 19, patches): the share of each class among a patch's pixels, of class maps (B, H, W)."""
    one_hot = F.one_hot(classes, len(NOUNS) + len(PLACES)).permute(0, 3, 1, 2).float()
    return F.avg_pool2d(one_hot, patch).flatten(2)


def facts_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean cross-entropy of the slots that are stated, and the share answered right per slot.

    logits: (B, sum of classes in the order of SLOTS). labels: (B, 5), IGNORE where nothing is stated.
    """
    losses, right = [], {}
    for index, (part, (name, _)) in enumerate(
        zip(logits.split([n for _, n in SLOTS], dim=1), SLOTS, strict=True)
    ):
        label = labels[:, index]
        stated = label != IGNORE
        count = stated.sum().clamp(min=1)
        losses.append(F.cross_entropy(part, label, ignore_index=IGNORE, reduction="sum") / count)
        right[name] = ((part.argmax(1) == label) & stated).sum() / count
    return torch.stack(losses).mean(), right
