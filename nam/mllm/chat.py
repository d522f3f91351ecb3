"""Between a prompt in words, a picture, and what an image-text-to-text model of transformers reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nam.errors import InputError, ModelError
from nam.mllm.pictures import Picture, read_picture
from nam.types import PICTURE_ID

if TYPE_CHECKING:
    from PIL.Image import Image

#: What a processor gives for each token.
TYPE_NAMES = ("token_type_ids", "mm_token_type_ids")
BY_TOKEN = ("input_ids", "attention_mask", *TYPE_NAMES)

#: Names, in a model's config, of the tokens that stand for soft tokens; none of them is ever said.
PLACEHOLDERS = ("image_token_id", "video_token_id", "audio_token_id")

#: Least pixels of a picture's sides: image processors take a side of 1 or 3 for the colours.
LEAST_SIDE = 4

#: How often a picture's shorter side may fit into its longer one: of a strip some processors make gigabytes.
MOST_RATIO = 200


@dataclass(frozen=True, eq=False)
class Encoded:
    """One prompt as the model reads it.

    Attributes:
        prompt: The words.
        ids: Its ids, `PICTURE_ID` where a picture's soft tokens stand.
        system, picture: Tokens before the words or the picture, and from the picture's first to its last.
        inputs: What the processor gave of the picture; (1, ...) or (parts, ...) each, on the CPU.
    """

    prompt: str
    ids: tuple[int, ...]
    system: int
    picture: int
    inputs: Mapping[str, Tensor]

    @property
    def text(self) -> int:
        """Tokens behind the system and the picture."""
        return len(self.ids) - self.system - self.picture


class Chat:
    """Prompts to what a model reads, and ids to text, by the model's own processor and chat template.

    Args:
        tokenizer: The model's tokenizer.
        processor: Its processor; None for a model that reads words alone.
        config: Its config.
        caption_prompt: What is asked about a picture that comes without words.
        type_names: How the model wants to be told which tokens are a picture's, some of `TYPE_NAMES`.

    Raises:
        ModelError: the tokenizer has no end token.
    """

    def __init__(
        self,
        *,
        tokenizer: Any,
        processor: Any,
        config: Any,
        caption_prompt: str,
        type_names: Sequence[str] = (),
    ) -> None:
        self.tokenizer, self.processor, self.caption_prompt = tokenizer, processor, caption_prompt
        self.type_names = tuple(type_names)
        found = {name: getattr(config, name, None) for name in PLACEHOLDERS}
        self.placeholder_ids = tuple(value for value in found.values() if isinstance(value, int))
        self.picture_id: int | None = found["image_token_id"]
        if tokenizer.eos_token_id is None:
            raise ModelError(f"the tokenizer {type(tokenizer).__name__} has no eos_token")
        pad = tokenizer.pad_token_id
        self.pad_id: int = tokenizer.eos_token_id if pad is None else pad

    def encode(self, prompt: str, picture: Picture | None) -> Encoded:
        """One prompt.

        Raises:
            InputError: it is empty, holds reserved or unknown words, or the model reads no pictures, or none
                of this size.
        """
        if not isinstance(prompt, str):
            raise InputError(f"expected a prompt in words, got {type(prompt).__name__}")
        words = prompt.strip()
        if picture is not None and (self.processor is None or self.picture_id is None):
            raise InputError("this model reads no pictures: ask it in words alone")
        if not words and picture is None:
            raise InputError("the prompt is empty; expected words, a picture, or both")
        words = words or self.caption_prompt
        self.check_words(words)
        text = self.templated(words, has_picture=picture is not None)
        # As in transformers: a template that begins with the begin token has said all special tokens itself.
        bos = self.tokenizer.bos_token
        special = not (bos and text.startswith(bos)) and (self.processor is not None or text == words)
        if picture is None:
            ids = self.words_to_ids(text, special=special)
            return Encoded(words, tuple(ids), self.before(text, words, ids, special=special), 0, {})
        given = self.processor(
            text=[text],
            images=[_readable(picture)],
            add_special_tokens=special,
            return_tensors="pt",
        )
        ids = given["input_ids"][0].tolist()
        places = [place for place, token in enumerate(ids) if token == self.picture_id]
        if not places:
            raise ModelError(f"{type(self.processor).__name__} gave no token {self.picture_id} for a picture")
        inputs = {key: value for key, value in given.items() if key not in BY_TOKEN}
        whole = tuple(PICTURE_ID if token == self.picture_id else token for token in ids)
        return Encoded(words, whole, places[0], places[-1] + 1 - places[0], inputs)

    def words_to_ids(self, text: str, *, special: bool) -> list[int]:
        """Ids of a text without a picture, with the special tokens around it or without."""
        return list(self.tokenizer(text, add_special_tokens=special)["input_ids"])

    def templated(self, words: str, *, has_picture: bool) -> str:
        """The text that is tokenized, with one placeholder for the picture."""
        if self.processor is None:
            if not self.tokenizer.chat_template:
                return words
            turn: Any = {"role": "user", "content": words}
            return str(self.tokenizer.apply_chat_template([turn], add_generation_prompt=True, tokenize=False))
        if not (self.processor.chat_template or self.tokenizer.chat_template):
            return f"{self.processor.image_token}{words}" if has_picture else words
        picture = [{"type": "image"}] if has_picture else []
        turn = {"role": "user", "content": [*picture, {"type": "text", "text": words}]}
        owner = self.processor if self.processor.chat_template else self.tokenizer
        return str(owner.apply_chat_template([turn], add_generation_prompt=True, tokenize=False))

    def check_words(self, words: str) -> None:
        """Refuse words that the model reserves or does not know, with an InputError."""
        reserved = {str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special}
        found = sorted(token for token in reserved if token and token in words)
        if found:
            raise InputError(f"the prompt holds reserved tokens: {', '.join(found)}")
        ids = self.tokenizer(words, add_special_tokens=False)["input_ids"]
        if self.tokenizer.unk_token_id is not None and self.tokenizer.unk_token_id in ids:
            unknown = [
                word
                for word in words.split()
                if self.tokenizer.unk_token_id in self.tokenizer(word, add_special_tokens=False)["input_ids"]
            ]
            raise InputError(f"the prompt has words that this model does not know: {', '.join(unknown)}")

    def before(self, text: str, words: str, ids: Sequence[int], *, special: bool) -> int:
        """Tokens in front of the words of a text, whose ids these are; 0 where the tokenizer cannot say."""
        start = text.rfind(words)
        if start < 0 or not self.tokenizer.is_fast:
            return 0
        encoded = self.tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
        ends, plain = [end for _, end in encoded["offset_mapping"]], list(encoded["input_ids"])
        found = next((place for place, end in enumerate(ends) if end > start), len(ends))
        # A processor may have put tokens of its own in front.
        fits = (at for at in range(len(ids)) if list(ids[at : at + len(plain)]) == plain)
        return found + next(fits, 0)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens and picture places left out."""
        words = [token for token in ids if token != PICTURE_ID]
        return str(self.tokenizer.decode(words, skip_special_tokens=True)).strip()

    def collate(
        self,
        sequences: Sequence[Sequence[int]],
        inputs: Sequence[Mapping[str, Tensor]],
        *,
        side: str,
        like: Tensor,
    ) -> dict[str, Tensor]:
        """What a model is called with for several sequences.

        Args:
            sequences: Ids of each, `PICTURE_ID` at a picture's places.
            inputs: What the processor gave of each one's picture; empty without one.
            side: "left" or "right", where shorter sequences are padded.
            like: Gives device, and the precision of what is not whole numbers.
        """
        length = max(map(len, sequences))
        ids = torch.full((len(sequences), length), self.pad_id)
        batch = {"attention_mask": torch.zeros_like(ids)}
        types = torch.zeros_like(ids)
        for row, sequence in enumerate(sequences):
            tokens = torch.tensor(list(sequence))
            here = slice(length - len(tokens), None) if side == "left" else slice(0, len(tokens))
            places = tokens == PICTURE_ID
            ids[row, here] = tokens.masked_fill(places, self.picture_id or 0)
            batch["attention_mask"][row, here] = 1
            types[row, here] = places.long()
        batch["input_ids"] = ids
        for name in self.type_names:
            batch[name] = types
        for key in dict.fromkeys(key for one in inputs for key in one):
            batch[key] = _stacked([one[key] for one in inputs if key in one])
        return {
            key: value.to(like.device, like.dtype if value.is_floating_point() else None)
            for key, value in batch.items()
        }


class PromptChat(Chat):
    """A `Chat` whose processor also writes prompts without a picture: it adds tokens of its own to them."""

    def words_to_ids(self, text: str, *, special: bool) -> list[int]:
        """Ids of a text without a picture, as the processor gives them."""
        given = self.processor(text=[text], add_special_tokens=special, return_tensors="pt")
        ids: list[int] = given["input_ids"][0].tolist()
        return ids


def _readable(picture: Picture) -> Image:
    """A picture that an image processor can be trusted with."""
    found = read_picture(picture)
    short, long = sorted(found.size)
    if short < LEAST_SIDE or long > MOST_RATIO * short:
        raise InputError(
            f"expected a picture of at least {LEAST_SIDE} pixels a side, one at most {MOST_RATIO} times the "
            f"other, got {found.width} x {found.height}"
        )
    return found


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    """Tensors one after the other along their first axis, the others filled up with 0 behind."""
    sizes = [max(part.shape[axis] for part in parts) for axis in range(1, parts[0].ndim)]
    found = parts[0].new_zeros(sum(map(len, parts)), *sizes)
    start = 0
    for part in parts:
        found[(slice(start, start + len(part)), *(slice(0, size) for size in part.shape[1:]))] = part
        start += len(part)
    return found
