"""The things that flow through a run."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from nam.types import Concept, Generation, Neuron, NeuronSet, Span, Spans, Target


def test_neurons_are_written_and_read() -> None:
    neuron = Neuron(23, 5318)
    assert str(neuron) == "L23.U5318"
    assert Neuron.parse(" L23.U5318 ") == neuron
    for wrong in ("23.5318", "L2U3", "L-1.U3", ""):
        with pytest.raises(ValueError, match=r"written like L3\.U17"):
            Neuron.parse(wrong)
    with pytest.raises(ValueError, match="count from 0"):
        Neuron(-1, 0)


def test_neuron_sets_are_sorted_sets() -> None:
    a = NeuronSet.of([Neuron(1, 5), Neuron(0, 9), Neuron(1, 2), Neuron(1, 5)])
    assert [str(neuron) for neuron in a] == ["L0.U9", "L1.U2", "L1.U5"]
    assert a.by_layer() == {0: (9,), 1: (2, 5)}
    b = NeuronSet.of([Neuron(1, 2), Neuron(3, 0)])
    assert list(a & b) == [Neuron(1, 2)]
    assert len(a | b) == 4
    assert list(b - a) == [Neuron(3, 0)]
    assert Neuron(0, 9) in a
    assert a == NeuronSet.of(reversed(list(a)))
    with pytest.raises(ValueError, match="different and in order"):
        NeuronSet((Neuron(1, 0), Neuron(0, 0)))


def test_spans_follow_one_another() -> None:
    spans = Spans.of_lengths(system=1, picture=0, text=3, answer=2, img=8)
    assert spans.picture == Span(1, 1)
    assert list(spans.picture) == []
    assert list(spans.answer) == [4, 5]
    assert (len(spans.img), len(spans)) == (8, 14)


def test_concepts_have_words_and_nothing_can_be_changed() -> None:
    concept = Concept("horse", ("horses", "horse", "pony"))
    assert concept.words == ("horse", "horses", "pony")
    with pytest.raises(dataclasses.FrozenInstanceError):
        concept.name = "cat"  # type: ignore[misc]


def test_a_target_has_a_direction_for_each_ascending_position() -> None:
    Target(modality="text", positions=(2, 5), directions=torch.zeros(2, 4), token_ids=(7, 8))
    for positions in ((), (5, 2), (2, 2)):
        with pytest.raises(ValueError, match="must be ascending, at least one"):
            Target(modality="text", positions=positions, directions=torch.zeros(len(positions), 4))
    with pytest.raises(ValueError, match=r"expected 2 directions \(P, H\), got a tensor of shape \(3, 4\)"):
        Target(modality="image", positions=(2, 5), directions=torch.zeros(3, 4))


def test_an_answer_is_shown_in_a_line() -> None:
    spans = Spans.of_lengths(system=1, picture=0, text=1, answer=1, img=0)
    shown = repr(
        Generation(
            prompt="a cat", text="meow", token_ids=(1, 2, 3), spans=spans, finish="stop", seed=3,
            hidden=torch.zeros(8, 32),
        )
    )  # fmt: skip
    start = "Generation(prompt='a cat', text='meow', finish='stop', seed=3, image=None,"
    assert shown == f"{start} drawn=None, medium='image')"
