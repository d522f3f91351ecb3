"""Words of neurons against the unembedding computed in one piece."""

from __future__ import annotations

import pytest
import torch

from nam.errors import InputError
from nam.mllm import words as module
from nam.mllm.gill import GILL
from nam.mllm.words import WordBook, neuron_words
from nam.types import Neuron
from nam.world.tokenizer import SPECIAL_TOKENS


@pytest.mark.parametrize("rows", [7, 8192])
def test_words_have_the_highest_logits(shared_gill: GILL, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(module, "_ROWS", rows)
    monkeypatch.setattr(module, "_NEURONS", 2)
    neurons = [Neuron(1, 63), Neuron(0, 0), Neuron(0, 5), Neuron(1, 63)]
    tokenizer = shared_gill.tokenizer
    special = tokenizer.convert_tokens_to_ids([*SPECIAL_TOKENS, *shared_gill.config.img_tokens])
    found = neuron_words(shared_gill, neurons, count=3)
    for neuron, mine in zip(neurons, found, strict=True):
        vector = shared_gill.ffn_sites[neuron.layer].value_vectors[:, neuron.unit].float()
        logits = shared_gill.unembedding.float() @ vector
        logits[special] = -torch.inf
        expected = [tokenizer.decode([token]) for token in logits.topk(3).indices.tolist()]
        assert list(mine) == expected


def test_special_tokens_are_no_words(gill: GILL) -> None:
    special = [*SPECIAL_TOKENS, *gill.config.img_tokens]
    ids = gill.tokenizer.convert_tokens_to_ids(special)
    vector = gill.ffn_sites[0].value_vectors[:, 3]
    with torch.no_grad():
        gill.unembedding[ids] = 10 * vector.clone()
    assert int((gill.unembedding @ vector).argmax()) in ids
    (words,) = neuron_words(gill, [Neuron(0, 3)], count=400)
    assert len(words) == len(gill.tokenizer) - len(special)
    assert not set(words) & set(special)


def test_a_word_book_looks_up_once(shared_gill: GILL, monkeypatch: pytest.MonkeyPatch) -> None:
    book = WordBook(shared_gill, count=2)
    first = book([Neuron(0, 3), Neuron(1, 4)])
    monkeypatch.setattr(module, "_best_tokens", None)
    assert book([Neuron(1, 4), Neuron(0, 3)]) == first[::-1]


def test_neurons_that_do_not_exist(shared_gill: GILL) -> None:
    with pytest.raises(InputError, match=r"has no neuron L2\.U0: its last is L1\.U63"):
        neuron_words(shared_gill, [Neuron(2, 0)])
    for count in (0, 1.5, True):
        with pytest.raises(InputError, match=f"words of a neuron must be an integer .* got {count}"):
            neuron_words(shared_gill, [Neuron(0, 0)], count=count)  # type: ignore[arg-type]
