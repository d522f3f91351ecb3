"""The word-level tokenizer that the language model and CLIP share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nam.world.vocabulary import vocabulary

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerFast

PAD, EOS, UNK = "<pad>", "</s>", "<unk>"
TEXT_START, TEXT_END = "<|startoftext|>", "<|endoftext|>"
#: The id of a token is its place here, then the words in alphabetical order. CLIPTextModel reads its
#: summary at the first token whose id is `eos_token_id`, by a legacy rule if that id is 2: TEXT_END is not 2.
SPECIAL_TOKENS = (PAD, EOS, UNK, TEXT_START, TEXT_END)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of the whole vocabulary: lower-casing, a token per word or punctuation mark.

    `</s>` begins a text and ends it, as in OPT, but only the beginning is added here
    (`add_special_tokens=True`). Decoding joins tokens by spaces.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {token: i for i, token in enumerate((*SPECIAL_TOKENS, *vocabulary()))}
    core = Tokenizer(models.WordLevel(ids, unk_token=UNK))
    core.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation(behavior="isolated")]
    )
    core.post_processor = processors.TemplateProcessing(
        single=f"{EOS} $A", pair=f"{EOS} $A $B", special_tokens=[(EOS, ids[EOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=EOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNK,
        additional_special_tokens=[TEXT_START, TEXT_END],
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=64,
    )


def encode_captions(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], *, length: int = 16
) -> tuple[Tensor, Tensor]:
    """Captions as CLIP reads them: start, words, end, padding.

    Args:
        tokenizer: as made by `build_tokenizer`, or loaded from where it was saved.
        texts: captions; the empty caption is allowed (the unconditional one of classifier-free guidance).
        length: tokens per row; a longer caption loses its last words, never its end token.

    Returns:
        input_ids, attention_mask: int64 tensors (len(texts), length). CLIP's `eos_token_id` is the id of
        TEXT_END, its `bos_token_id` that of TEXT_START.
    """
    import torch

    known = tokenizer.get_vocab()
    start, end, pad = known[TEXT_START], known[TEXT_END], known[PAD]
    ids = torch.full((len(texts), length), pad, dtype=torch.long)
    mask = torch.zeros((len(texts), length), dtype=torch.long)
    if texts:
        encoded = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        for row, words in enumerate(encoded):
            tokens = [start, *words[: length - 2], end]
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
    return ids, mask
