"""Words of neurons against the unembedding computed in one piece."""

from __future__ import annotations

import pytest
import torch

from nam.errors import InputError
from nam.mllm import words as module
from nam.mllm.ffn import FfnSite
from nam.mllm.gill import GILL
from nam.mllm.words import WordBook
from nam.types import Neuron
from nam.world.tokenizer import SPECIAL_TOKENS


@pytest.mark.parametrize("rows", [7, 8192])
def test_words_have_the_highest_logits(shared_gill: GILL, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(module, "_ROWS", rows)
    monkeypatch.setattr(module, "_NEURONS", 2)
    neurons = [Neuron(1, 63), Neuron(0, 0), Neuron(0, 5), Neuron(1, 63)]
    tokenizer = shared_gill.tokenizer
    special = tokenizer.convert_tokens_to_ids([*SPECIAL_TOKENS, *shared_gill.config.img_tokens])
    found = WordBook(shared_gill, count=3)(neurons)
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
    (words,) = WordBook(gill, count=400)([Neuron(0, 3)])
    assert len(words) == len(gill.tokenizer) - len(special)
    assert not set(words) & set(special)


def test_a_word_book_looks_up_once(shared_gill: GILL, monkeypatch: pytest.MonkeyPatch) -> None:
    book = WordBook(shared_gill, count=2)
    first = book([Neuron(0, 3), Neuron(1, 4)])
    monkeypatch.setattr(module, "_best_tokens", None)
    assert book([Neuron(1, 4), Neuron(0, 3)]) == first[::-1]


def test_each_layer_is_read_once(shared_gill: GILL, monkeypatch: pytest.MonkeyPatch) -> None:
    neurons = [Neuron(layer, unit) for unit in (9, 2, 40) for layer in (1, 0)]
    alone = [WordBook(shared_gill)([neuron])[0] for neuron in neurons]
    asked: list[tuple[int, list[int]]] = []
    columns = FfnSite.columns

    def count(site: FfnSite, units: torch.Tensor) -> torch.Tensor:
        asked.append((site.layer, units.tolist()))
        return columns(site, units)

    monkeypatch.setattr(FfnSite, "columns", count)
    assert WordBook(shared_gill)(neurons) == alone
    assert sorted(asked) == [(0, [9, 2, 40]), (1, [9, 2, 40])]


def test_neurons_that_do_not_exist(shared_gill: GILL) -> None:
    with pytest.raises(InputError, match=r"has no neuron L2\.U0: its last is L1\.U63"):
        WordBook(shared_gill)([Neuron(2, 0)])
    for count in (0, 1.5, True):
        with pytest.raises(InputError, match=f"words of a neuron must be an integer .* got {count}"):
            WordBook(shared_gill, count=count)  # type: ignore[arg-type]
