"""Tiny RANDOM text encoders and regressors, in the layout that is shipped."""

from __future__ import annotations

from pathlib import Path

import torch

from nam.data.similarity import LENGTH, pair_tokenizer

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "max_position_embeddings": LENGTH,
    "initializer_range": 0.3,  # texts that differ are told apart
}


def write_similarity(folder: Path, *, labels: int = 1, bias: float | None = None, seed: int = 0) -> Path:
    """Write a regressor to `similarity/` of a weights folder and return that folder.

    bias: the regressor then gives this number whatever it reads.
    """
    from transformers import BertConfig, BertForSequenceClassification

    tokenizer = pair_tokenizer()
    config = BertConfig(**SIZES, vocab_size=len(tokenizer), pad_token_id=0, num_labels=labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertForSequenceClassification(config)
    if bias is not None:
        torch.nn.init.zeros_(model.classifier.weight)
        torch.nn.init.constant_(model.classifier.bias, bias)
    model.save_pretrained(folder / "similarity")
    tokenizer.save_pretrained(folder / "similarity")
    return folder
