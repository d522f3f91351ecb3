"""The tokenizer knows every word of the world, and CLIP finds the end of its captions."""

from __future__ import annotations

import numpy as np
import pytest

from nam.world import corpus
from nam.world.tokenizer import TEXT_END, TEXT_START, build_tokenizer, encode_captions
from nam.world.vocabulary import vocabulary


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.mark.parametrize("held_out", [False, True])
def test_texts_are_known_and_short(tokenizer, held_out: bool) -> None:
    rng = np.random.default_rng(6)
    texts = [corpus.sample_text(rng, held_out=held_out) for _ in range(20000)]
    full = [f"{text.prompt} {text.answer}".strip() for text in texts]
    rows = tokenizer(full)["input_ids"]
    assert not any(tokenizer.unk_token_id in row for row in rows)
    assert max(map(len, rows)) + 5 + 8 + 1 <= 64  # with keywords, picture tokens and an end
    assert tokenizer.batch_decode(rows, skip_special_tokens=True) == full
    assert all((text.prompt or ".")[-1] in ".?:" or text.kind == "seen caption" for text in texts)
    assert all(text.answer[-1] == (":" if text.answer.startswith("here is ") else ".") for text in texts)


def test_tokenizer_ids(tokenizer, tmp_path) -> None:
    from transformers import AutoTokenizer

    assert len(tokenizer) == len(vocabulary()) + 5
    assert tokenizer.bos_token_id == tokenizer.eos_token_id == tokenizer.convert_tokens_to_ids("</s>") == 1
    assert tokenizer.pad_token_id == 0
    assert tokenizer("A red HORSE, please?")["input_ids"] == [
        1,
        *tokenizer.convert_tokens_to_ids(["a", "red", "horse", ",", "please", "?"]),
    ]
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "draw a red horse on the grass . here is a red horse on the grass :"
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert loaded.decode(loaded(text)["input_ids"], skip_special_tokens=True) == text
    loaded.add_tokens(["[IMG0]"], special_tokens=True)
    assert loaded(f"{text} [IMG0]")["input_ids"][-1] == len(tokenizer)


def test_clip_reads_the_end_token(tokenizer) -> None:
    """CLIPTextModel's summary must not depend on the padding after the end token."""
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel

    start, end = tokenizer.convert_tokens_to_ids([TEXT_START, TEXT_END])
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=16,
        bos_token_id=start, eos_token_id=end, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = CLIPTextModel(config).eval()
    ids, mask = encode_captions(tokenizer, ["a red horse on the grass", ""])
    assert ids.shape == mask.shape == (2, 16)
    assert ids[0, 0] == start
    assert (ids == end).sum(1).tolist() == [1, 1]
    assert mask.sum(1).tolist() == [8, 2]
    with torch.no_grad():
        out = model(input_ids=ids, attention_mask=mask)
    at_end = out.last_hidden_state[torch.arange(2), mask.sum(1) - 1]
    torch.testing.assert_close(out.pooler_output, at_end)
    long_ids, long_mask = encode_captions(tokenizer, ["a red horse " * 20], length=16)
    assert long_ids[0, -1] == end
    assert long_mask.sum() == 16


def test_vocabulary_holds_the_words_of_every_table() -> None:
    """A table that is not gathered would silently turn its words into <unk>."""
    assert {"this", "kitten", "meow", "beside", "bigger", "horses", ":"} <= set(vocabulary())
    assert len(vocabulary()) == 349
