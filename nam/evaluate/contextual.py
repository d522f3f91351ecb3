"""Contextual embeddings of texts and the weights of their tokens: what BERTScore and MoverScore compare."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nam.errors import ConfigError
from nam.evaluate.checkpoints import find_checkpoint, read_checkpoint_tokenizer, read_model

_BATCH = 64


@dataclass(frozen=True, eq=False)
class Embedded:
    """A text as a model reads it, n tokens without padding.

    Attributes:
        ids: Token ids, (n,).
        tokens: The tokens as the tokenizer spells them.
        special: Which of them the tokenizer added, such as [CLS].
        vectors: Hidden states, (n, H) float32 on the CPU.
    """

    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    special: tuple[bool, ...]
    vectors: Tensor


@dataclass(frozen=True)
class Idf:
    """Inverse document frequencies over a corpus, with the +1 smoothing of BERTScore and MoverScore.

    Attributes:
        documents: Number of texts, N.
        frequencies: Token id -> number of texts that hold it.
    """

    documents: int
    frequencies: Mapping[int, int]

    @classmethod
    def of(cls, corpus: Iterable[Iterable[int]]) -> Idf:
        """Of texts as token ids."""
        texts = [set(ids) for ids in corpus]
        return cls(len(texts), Counter(token for text in texts for token in text))

    def __call__(self, token: int) -> float:
        """log((N + 1) / (n + 1)), where n of the N texts hold the token."""
        return math.log((self.documents + 1) / (self.frequencies.get(token, 0) + 1))


def token_weights(text: Embedded, idf: Idf | None) -> Tensor:
    """Weights (n,) float32 of a text's tokens: their IDF, or 1 each; 0 for what the tokenizer added."""
    pairs = zip(text.ids, text.special, strict=True)
    return torch.tensor([0.0 if special else 1.0 if idf is None else idf(token) for token, special in pairs])


@dataclass(frozen=True, eq=False, kw_only=True)
class Embedder:
    """Hidden states of one layer of a frozen text encoder.

    Attributes:
        model: A transformers encoder.
        tokenizer: Its tokenizer.
        checkpoint: What tables call the model.
        layer: Whose output is taken; 0 is the embedding layer.
    """

    model: Any
    tokenizer: Any
    checkpoint: str
    layer: int

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> list[Embedded]:
        """Each text embedded; equal texts are run once. A text that is too long loses its end."""
        different = list(dict.fromkeys(texts))
        known: dict[str, Embedded] = {}
        for start in range(0, len(different), _BATCH):
            some = different[start : start + _BATCH]
            known.update(zip(some, self._embed(some), strict=True))
        return [known[text] for text in texts]

    def idf(self, corpus: Sequence[str]) -> Idf:
        """Inverse document frequencies of tokens over the texts of a corpus.

        Raises:
            ConfigError: the corpus is empty.
        """
        if not corpus:
            raise ConfigError("IDF weights need a corpus with at least one text; got none")
        return Idf.of(self.tokenizer(list(corpus), add_special_tokens=False)["input_ids"])

    def _embed(self, texts: list[str]) -> list[Embedded]:
        encoded = self.tokenizer(
            texts,
            padding=True,
            truncation=True,
            max_length=_most_tokens(self.model, self.tokenizer),
            return_special_tokens_mask=True,
            return_attention_mask=True,
            return_tensors="pt",
        )
        special = encoded.pop("special_tokens_mask").bool()
        inputs = {name: values.to(self.model.device) for name, values in encoded.items()}
        states = self.model(**inputs, output_hidden_states=True).hidden_states[self.layer].float().cpu()
        found = []
        for row, mask in enumerate(encoded["attention_mask"].bool()):
            ids = encoded["input_ids"][row][mask].tolist()
            found.append(
                Embedded(
                    ids=tuple(ids),
                    tokens=tuple(self.tokenizer.convert_ids_to_tokens(ids)),
                    special=tuple(special[row][mask].tolist()),
                    vectors=states[row][mask],
                )
            )
        return found


def load_embedder(
    checkpoint: str | Path = "tiny_gill", *, layer: int | None = None, device: str = "cpu"
) -> Embedder:
    """A text encoder by its hub id or folder; of a GILL's folder, the encoder in its `similarity/`.

    Args:
        checkpoint: The id, path or name.
        layer: Whose output is taken, from 0 (the embedding layer); None for the last.
        device: Where the model goes.

    Raises:
        ModelError: there is no such checkpoint, or it is damaged.
        ConfigError: there is no such layer or device.
    """
    from transformers import AutoModel

    found = find_checkpoint(checkpoint, part="similarity")
    model = read_model(AutoModel, found, device=device, unused=("pooler",))
    last = int(model.config.num_hidden_layers)
    layer = last if layer is None else layer
    if not 0 <= layer <= last:
        raise ConfigError(f"layer must be from 0 to {last} for {found.name}, got {layer}")
    return Embedder(
        model=model, tokenizer=read_checkpoint_tokenizer(found), checkpoint=found.name, layer=layer
    )


def _most_tokens(model: Any, tokenizer: Any) -> int:
    # Tokenizers that know no limit say 1e30.
    return min(int(tokenizer.model_max_length), int(model.config.max_position_embeddings))
