"""Between a prompt in words and the ids that a language model reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nam.errors import InputError, ModelError, nearest
from nam.mllm.config import GillConfig
from nam.types import PICTURE_ID, Medium

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt as the model reads it.

    Attributes:
        prompt: The words, without marks of pictures at their beginning.
        ids: Its ids, `PICTURE_ID` at each place of a picture's soft tokens.
        n_system: Tokens before the pictures.
        n_picture: Tokens from the first picture's first to the last one's last, words in between included.
    """

    prompt: str
    ids: tuple[int, ...]
    n_system: int
    n_picture: int

    @property
    def n_text(self) -> int:
        """Tokens behind the pictures."""
        return len(self.ids) - self.n_system - self.n_picture


class PromptCodec:
    """Prompts to ids and ids to text, by one model's conventions.

    The tokenizer is extended, in place, by the config's extra tokens and [IMG0], [IMG1], ...

    Args:
        tokenizer: A fast tokenizer with `bos_token`, `eos_token` and `pad_token`.
        config: The model's conventions.

    Attributes:
        img_ids: The [IMG] tokens, in order.
        signals: The tokens that announce what each medium draws, in order.
        end_ids: What ends an answer.
        banned_ids: What is never said.
        begin_ids: What stands before the words, or before pictures that lead.
        picture_ids: What stands for a picture, `PICTURE_ID` at the places of its soft tokens.

    Raises:
        ModelError: the tokenizer lacks a special token or is not a fast one.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: GillConfig) -> None:
        from transformers import AddedToken

        if not tokenizer.is_fast:
            raise ModelError(f"expected a fast tokenizer, got {type(tokenizer).__name__}")
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            if getattr(tokenizer, name) is None:
                raise ModelError(f"the language model's tokenizer has no {name.removesuffix('_id')}")
        new = config.new_tokens
        tokenizer.add_special_tokens(
            {"extra_special_tokens": [AddedToken(t, special=True, normalized=False) for t in new]},
            replace_extra_special_tokens=False,
        )
        self.tokenizer = tokenizer
        self.config = config
        self.img_ids: tuple[int, ...] = tuple(map(self._id, config.img_tokens))
        self.signals: dict[Medium, tuple[int, ...]] = {"image": self.img_ids}
        self.bos_id: int = tokenizer.bos_token_id
        self.eos_id: int = tokenizer.eos_token_id
        self.end_ids: tuple[int, ...] = (self.eos_id, *map(self._only_id, config.end_words))
        self.pad_id: int = tokenizer.pad_token_id
        self.banned_ids: tuple[int, ...] = (self.pad_id,)
        self.begin_ids: tuple[int, ...] = (self.bos_id,)
        self.picture_ids: tuple[int, ...] = (PICTURE_ID,) * config.n_visual_tokens
        self._special = frozenset(tokenizer.all_special_ids) | frozenset(self.img_ids)

    def encode(self, prompt: str | None, *, pictures: int = 0) -> EncodedPrompt:
        """Ids of one prompt: begin token, words, and places of its pictures.

        The pictures stand where the config's `picture_mark` does, or before the words where it does not
        occur. A prompt without an end character gets one, by the model's convention. Without words, a picture
        is asked for its caption.

        Args:
            prompt: The words, with a mark for each picture or with none.
            pictures: How many pictures come with it.

        Raises:
            InputError: the prompt is empty (and there is no picture), its marks are not as many as its
                pictures, or it holds words that the tokenizer does not know or tokens that it reserves.
        """
        mark = self.config.picture_mark
        parts = [self._tidy(part) for part in (prompt or "").split(mark)]
        if len(parts) == 1:
            parts = [""] * pictures + parts
        if len(parts) != pictures + 1:
            raise InputError(f"the prompt marks {len(parts) - 1} pictures by {mark}, {pictures} came with it")
        if not any(parts):
            if not pictures:
                raise InputError("the prompt is empty; expected words, a picture, or both")
            parts[-1] = self.config.caption_prompt
        ends = self.config.prompt_ends
        if ends and parts[-1].lower() != self.config.caption_prompt and not parts[-1].endswith(tuple(ends)):
            parts[-1] += self.config.prompt_end
        first = next((place for place, part in enumerate(parts) if part), 0)
        begin = 0 if self.config.bos_first else first
        ids: list[int] = []
        for place, part in enumerate(parts):
            ids += self.picture_ids if place else ()
            ids += self.begin_ids if place == begin else ()
            words = part + self.config.behind_prompt if place == pictures else part
            ids += self._word_ids(words) if words else []
        places = [place for place, token in enumerate(ids) if token == PICTURE_ID]
        none = (len(self.begin_ids), 0)
        n_system, n_picture = (places[0], places[-1] + 1 - places[0]) if places else none
        return EncodedPrompt(mark.join(parts[first:]), tuple(ids), n_system, n_picture)

    def _tidy(self, part: str) -> str:
        """Words as they are read: lines are kept where one ends an answer, other blanks are one."""
        if not self.config.end_words:
            return " ".join(part.split())
        return "\n".join(" ".join(line.split()) for line in part.split("\n")).strip(" ")

    def _word_ids(self, words: str) -> list[int]:
        # verbose=False: a prompt beyond the context is refused later, by an error of ours.
        encoded = self.tokenizer(words, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids: list[int] = encoded["input_ids"]
        pieces = [words[start:stop] for start, stop in encoded["offset_mapping"]]
        unk_id = self.tokenizer.unk_token_id
        if unk_id in (self.bos_id, self.eos_id):  # OPT: nothing is unknown to its tokenizer
            unk_id = None
        unknown = dict.fromkeys(piece for piece, id_ in zip(pieces, ids, strict=True) if id_ == unk_id)
        if unknown:
            known = set(self.tokenizer.get_vocab()) - set(self.tokenizer.all_special_tokens)
            vocabulary = {token for token in known if any(map(str.isalpha, token))}
            found = "; ".join(f"{word!r} ({nearest(word.lower(), vocabulary)})" for word in unknown)
            raise InputError(f"the prompt has words that this model does not know: {found}")
        reserved = [piece for piece, id_ in zip(pieces, ids, strict=True) if id_ in self._special]
        if reserved:
            raise InputError(f"the prompt holds reserved tokens: {', '.join(reserved)}")
        return ids

    def _id(self, token: str) -> int:
        found = self.tokenizer.convert_tokens_to_ids(token)
        if not isinstance(found, int):
            raise ModelError(f"the language model's tokenizer has no {token}")
        return found

    def _only_id(self, word: str) -> int:
        ids = self.tokenizer(word, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise ModelError(f"end_words: {word!r} should be one token of the tokenizer, not {len(ids)}")
        return int(ids[0])

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens and picture places left out."""
        words = [id_ for id_ in ids if id_ != PICTURE_ID]
        return str(self.tokenizer.decode(words, skip_special_tokens=True)).strip()

    def pad(self, sequences: Iterable[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Sequences padded on the left: ids and attention mask, both int64 (B, T)."""
        rows = [list(sequence) for sequence in sequences]
        length = max(map(len, rows))
        ids = [[self.pad_id] * (length - len(row)) + row for row in rows]
        mask = [[0] * (length - len(row)) + [1] * len(row) for row in rows]
        return torch.tensor(ids), torch.tensor(mask)
