"""NAM (Fang et al. 2024): direct effect on the target, or activation, whichever is the larger share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from nam.reduction.base import Context, Method, Needs
from nam.reduction.contributions import contributions_at, contributions_of
from nam.reduction.folding import Norm
from nam.reduction.functional import (
    Aggregate,
    Branch,
    final_score,
    over_positions,
    passes,
    to_unit_scale,
)
from nam.reduction.vocabulary import first_tokens
from nam.types import Target

#: Eq. 7 lets a neuron pass when its first word is any form of the concept, exactly the token produced at the
#: position (the paper's letter), or always (eq. 6 alone).
Gate = Literal["forms", "token", "none"]

#: Targets whose shares are computed at once.
TOGETHER = 16


@dataclass(frozen=True, kw_only=True)
class Nam(Method):
    """log s_hat of eq. 4 for words (eq. 6 and 7) and pictures (step 2 of section "I-neurons").

    At each position of the target a neuron's direct effect is s = a <w, u>: its activation times the product
    of its value vector and the direction (a word's unembedding row, or the region's relevance R). For words,
    s is 0 unless the neuron's first word is the concept. Then log max(softmax(s), softmax(a)), both over all
    neurons of all layers.

    Args:
        norm: "ignore" the final norm as the paper does, or "fold" it into the direction.
        aggregate: How the target's positions become one.
        gate: Which neurons eq. 7 lets pass; for words only.
        scale: Eq. 4 depends on the sizes of s and a: "raw" takes them as they are, as the paper does, "unit"
            divides each by its root mean square over all neurons first.
        branch: Which of eq. 4's two shares count.
        region: For pictures, use the relevance R, or 1 in every dimension.
    """

    name: ClassVar[str] = "nam"
    needs: ClassVar[Needs] = Needs()

    norm: Norm = "ignore"
    aggregate: Aggregate = "mean"
    gate: Gate = "forms"
    scale: Literal["raw", "unit"] = "raw"
    branch: Branch = "both"
    region: bool = True

    def _score_batch(self, contexts: Sequence[Context]) -> list[Tensor]:
        effects = self._effects(contexts)
        how = self.aggregate
        if how == "each":
            return [
                self._final(s.movedim(1, 0), context.activations.movedim(1, 0)).mean(0)
                for context, s in zip(contexts, effects, strict=True)
            ]
        scores: list[Tensor] = []
        for start in range(0, len(contexts), TOGETHER):
            some = [context.activations for context in contexts[start : start + TOGETHER]]
            s = torch.stack([over_positions(one, how=how) for one in effects[start : start + TOGETHER]])
            # Targets at the same positions of one answer share their activations.
            shared = all(a is some[0] for a in some)
            a = torch.stack([over_positions(one, how=how) for one in (some[:1] if shared else some)])
            scores += self._final(s, a).expand_as(s)
        return scores

    def _final(self, s: Tensor, a: Tensor) -> Tensor:
        if self.scale == "unit":
            s, a = to_unit_scale(s), to_unit_scale(a)
        return final_score(s, a, branch=self.branch)

    def branches(self, context: Context) -> tuple[Tensor, Tensor]:
        """s and a of eq. 4 for one target, (L, d) each, to see which of them decides (`log_branches`)."""
        how: Literal["mean", "max"] = "mean" if self.aggregate == "each" else self.aggregate
        s = self._effects([context])[0]
        return over_positions(s, how=how), over_positions(context.activations, how=how)

    def _effects(self, contexts: Sequence[Context]) -> list[Tensor]:
        """s at each position, (L, P, d) a context."""
        directions = [context.directions(norm=self.norm, region=self.region) for context in contexts]
        found: dict[int, Tensor] = {}
        for gated in (False, True):
            mine = [index for index, context in enumerate(contexts) if self._gates(context) is gated]
            some, along = [contexts[index] for index in mine], [directions[index] for index in mine]
            effects = (
                contributions_at(some, along, self._passes(some)) if gated else contributions_of(some, along)
            )
            found |= zip(mine, effects, strict=True)
        return [found[index] for index in range(len(contexts))]

    def _gates(self, context: Context) -> bool:
        return self.gate != "none" and context.target.modality == "text"

    def _passes(self, contexts: Sequence[Context]) -> list[Tensor]:
        """Which neurons eq. 7 lets pass at each position, bool (L, P, d) a context.

        Targets of the same tokens share a mask where it does not depend on their activations.
        """
        if not contexts:
            return []
        mllm = contexts[0].mllm
        top = first_tokens(mllm, norm=self.norm, end="top")
        # Of non-negative activations (ReLU) the smallest logit is never asked for.
        if bool(torch.stack([context.activations.amin() for context in contexts]).min() < 0):
            bottom = first_tokens(mllm, norm=self.norm, end="bottom")
            return [self._passing(context.activations, context.target, top, bottom) for context in contexts]
        known: dict[Any, Tensor] = {}
        found = []
        for context in contexts:
            target = context.target
            key = target.form_ids if self.gate == "forms" else target.token_ids, len(target.positions)
            if key not in known:
                known[key] = self._passing(context.activations, target, top, None)
            found.append(known[key])
        return found

    def _passing(self, a: Tensor, target: Target, top: Tensor, bottom: Tensor | None) -> Tensor:
        if self.gate == "forms":
            return passes(a, top=top, bottom=bottom, ids=target.form_ids)
        columns = [
            passes(a[:, i : i + 1], top=top, bottom=bottom, ids=(token,))
            for i, token in enumerate(target.token_ids)
        ]
        return torch.cat(columns, dim=1)
