"""BERTScore: how well the tokens of two texts match one another (Zhang et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nam.errors import InputError
from nam.evaluate.checkpoints import column
from nam.evaluate.contextual import Embedder, Idf, load_embedder, token_weights


class Matched(NamedTuple):
    """Precision, recall and F1 of BERTScore, each a number or float32 (B,)."""

    precision: Tensor
    recall: Tensor
    f1: Tensor


def greedy_match(
    candidate: Tensor, reference: Tensor, *, candidate_weights: Tensor, reference_weights: Tensor
) -> Matched:
    """BERTScore of one pair: every token is matched with the most similar one of the other text.

    Precision is the mean of the candidate's best cosines under its weights, recall the reference's, F1 their
    harmonic mean. Tokens of weight 0 ([CLS], [SEP]) can be matched but do not count, as in the authors' own
    package. NaN where a text has no weight at all.

    Args:
        candidate: (m, H).
        reference: (n, H).
        candidate_weights: (m,), not negative.
        reference_weights: (n,), not negative.
    """
    cosines = F.normalize(candidate, dim=-1) @ F.normalize(reference, dim=-1).T
    precision = (cosines.amax(1) * candidate_weights).sum() / candidate_weights.sum()
    recall = (cosines.amax(0) * reference_weights).sum() / reference_weights.sum()
    return Matched(precision, recall, 2 * precision * recall / (precision + recall))


@dataclass(frozen=True, eq=False, kw_only=True)
class BertScore:
    """BERTScore by one layer of a checkpoint, not rescaled by a baseline.

    Attributes:
        embedder: The checkpoint.
        idf: Weights of the tokens; None weighs all alike.
    """

    embedder: Embedder
    idf: Idf | None = None

    @property
    def column(self) -> str:
        """The name of its column: "bertscore[roberta-large,layer=17,idf]"."""
        return column(
            "bertscore", self.embedder.checkpoint, layer=self.embedder.layer, idf=self.idf is not None
        )

    def __call__(self, candidates: Sequence[str], references: Sequence[str]) -> Tensor:
        """F1 of each candidate with its reference, float32 (B,); NaN where either has no words.

        Raises:
            InputError: there are more of one than of the other.
        """
        return self.matched(candidates, references).f1

    def matched(self, candidates: Sequence[str], references: Sequence[str]) -> Matched:
        """Precision, recall and F1 of each candidate with its reference.

        Raises:
            InputError: there are more of one than of the other.
        """
        if len(candidates) != len(references):
            raise InputError(f"expected a reference a candidate, got {len(references)} for {len(candidates)}")
        found = [
            greedy_match(
                candidate.vectors,
                reference.vectors,
                candidate_weights=token_weights(candidate, self.idf),
                reference_weights=token_weights(reference, self.idf),
            )
            for candidate, reference in zip(self.embedder(candidates), self.embedder(references), strict=True)
        ]
        table = torch.tensor([[float(value) for value in one] for one in found]).reshape(-1, 3)
        return Matched(*table.unbind(1))


def load_bertscore(
    checkpoint: str | Path = "tiny_gill",
    *,
    layer: int | None = None,
    corpus: Sequence[str] | None = None,
    device: str = "cpu",
) -> BertScore:
    """BERTScore by a hub id or folder.

    Args:
        checkpoint: As in `load_embedder`.
        layer: Whose output is compared, None for the last (the authors: 9 for bert-base-uncased, 17 for
            roberta-large).
        corpus: The references, for IDF weights; None weighs all tokens alike.
        device: Where the model goes.

    Raises:
        ModelError, ConfigError: as `load_embedder`.
    """
    embedder = load_embedder(checkpoint, layer=layer, device=device)
    return BertScore(embedder=embedder, idf=None if corpus is None else embedder.idf(corpus))
