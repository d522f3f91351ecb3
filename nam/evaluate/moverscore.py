"""MoverScore: how far the words of one text must be moved to become another's (Zhao et al. 2019)."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from nam.errors import InputError
from nam.evaluate.checkpoints import column
from nam.evaluate.contextual import Embedded, Embedder, Idf, load_embedder, token_weights


def mover_score(
    candidate: Tensor, reference: Tensor, *, candidate_weights: Tensor, reference_weights: Tensor
) -> float:
    """1 - the earth mover's distance between two weighted sets of vectors scaled to unit length.

    The distance between two tokens is Euclidean, so that the score is from -1 to 1. NaN where a text has no
    weight at all.

    Args:
        candidate: (m, H).
        reference: (n, H).
        candidate_weights: (m,), not negative; scaled to a sum of 1.
        reference_weights: (n,), likewise.
    """
    import ot

    if not (candidate_weights.sum() > 0 and reference_weights.sum() > 0):
        return float("nan")
    masses = [(one.double() / one.double().sum()).numpy() for one in (candidate_weights, reference_weights)]
    left, right = (F.normalize(one.double(), dim=-1) for one in (candidate, reference))
    # The differences themselves: the product form is off by 1e-8 where two tokens are the same.
    distances = torch.cdist(left, right, compute_mode="donot_use_mm_for_euclid_dist")
    return 1 - float(ot.emd2(*masses, distances.numpy()))


@dataclass(frozen=True, eq=False, kw_only=True)
class MoverScore:
    """MoverScore on single words by one layer of a checkpoint.

    As in the authors' code, special tokens, punctuation and pieces that continue a word (##) have no weight.

    Attributes:
        embedder: The checkpoint.
        candidate_idf: Weights of the candidates' tokens; None weighs all alike.
        reference_idf: Weights of the references' tokens.
    """

    embedder: Embedder
    candidate_idf: Idf | None = None
    reference_idf: Idf | None = None

    @property
    def column(self) -> str:
        """The name of its column: "moverscore[bert-base-uncased,layer=12,idf]"."""
        weighted = self.candidate_idf is not None or self.reference_idf is not None
        return column("moverscore", self.embedder.checkpoint, layer=self.embedder.layer, idf=weighted)

    def __call__(self, candidates: Sequence[str], references: Sequence[str]) -> Tensor:
        """The score of each candidate with its reference, float32 (B,); NaN where either has no words.

        Raises:
            InputError: there are more of one than of the other.
        """
        if len(candidates) != len(references):
            raise InputError(f"expected a reference a candidate, got {len(references)} for {len(candidates)}")
        pairs = zip(self.embedder(candidates), self.embedder(references), strict=True)
        scores = [
            mover_score(
                candidate.vectors,
                reference.vectors,
                candidate_weights=word_weights(candidate, self.candidate_idf),
                reference_weights=word_weights(reference, self.reference_idf),
            )
            for candidate, reference in pairs
        ]
        return torch.tensor(scores, dtype=torch.float32)


def word_weights(text: Embedded, idf: Idf | None) -> Tensor:
    """As `token_weights`, and 0 for punctuation and pieces that continue a word."""
    words = [token not in string.punctuation and not token.startswith("##") for token in text.tokens]
    return token_weights(text, idf) * torch.tensor(words)


def load_moverscore(
    checkpoint: str | Path = "tiny_gill",
    *,
    layer: int | None = None,
    candidates: Sequence[str] | None = None,
    references: Sequence[str] | None = None,
    device: str = "cpu",
) -> MoverScore:
    """MoverScore by a hub id or folder.

    Args:
        checkpoint: As in `load_embedder`.
        layer: Whose output is compared, None for the last, as in the authors' later code.
        candidates: All candidates, for their IDF weights; None weighs all tokens alike.
        references: All references, likewise.
        device: Where the model goes.

    Raises:
        ModelError, ConfigError: as `load_embedder`.
    """
    embedder = load_embedder(checkpoint, layer=layer, device=device)
    return MoverScore(
        embedder=embedder,
        candidate_idf=None if candidates is None else embedder.idf(candidates),
        reference_idf=None if references is None else embedder.idf(references),
    )
