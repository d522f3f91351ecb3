"""NAM (Fang et al. 2024): direct effect on the target, or activation, whichever is the larger share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from nam.reduction.base import Context, Method, Needs, Norm, contributions_of
from nam.reduction.functional import (
    Aggregate,
    Branch,
    final_score,
    gate,
    over_positions,
    to_unit_scale,
)
from nam.reduction.vocabulary import first_tokens

#: Eq. 7 lets a neuron pass when its first word is any form of the concept, exactly the token produced at the
#: position (the paper's letter), or always (eq. 6 alone).
Gate = Literal["forms", "token", "none"]


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
        scores = []
        for context, s in zip(contexts, self._effects(contexts), strict=True):
            if self.aggregate == "each":
                scores.append(self._final(s, context.activations).mean(1))
            else:
                a = over_positions(context.activations, how=self.aggregate)
                scores.append(self._final(over_positions(s, how=self.aggregate), a))
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
        effects = contributions_of(contexts, directions)
        return [self._gated(context, s) for context, s in zip(contexts, effects, strict=True)]

    def _gated(self, context: Context, s: Tensor) -> Tensor:
        target, a = context.target, context.activations
        if self.gate == "none" or target.modality != "text":
            return s
        top = first_tokens(context.mllm, norm=self.norm, end="top")
        # Of a non-negative activation (ReLU) the smallest logit is never asked for.
        bottom = first_tokens(context.mllm, norm=self.norm, end="bottom") if bool((a < 0).any()) else top
        if self.gate == "forms":
            return gate(s, activations=a, top=top, bottom=bottom, ids=target.form_ids)
        columns = [
            gate(s[:, i : i + 1], activations=a[:, i : i + 1], top=top, bottom=bottom, ids=(token,))
            for i, token in enumerate(target.token_ids)
        ]
        return torch.cat(columns, dim=1)
