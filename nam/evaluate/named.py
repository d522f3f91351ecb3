"""Neurons that a paper names with the words they write: do a model's weights say the same?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nam.checks import whole
from nam.errors import ConfigError, InputError
from nam.mllm.base import MLLM
from nam.mllm.words import WordBook
from nam.types import Neuron

#: The number that a paper's first layer may have.
COUNTINGS = (0, 1)


@dataclass(frozen=True)
class NamedNeuron:
    """A neuron as a paper names it.

    Attributes:
        concept: What it stands for.
        modality: "text", "image" or "both".
        neuron: By the paper's own number of the layer.
        words: What it should write; empty where the paper does not say.
    """

    concept: str
    modality: str
    neuron: Neuron
    words: tuple[str, ...]


@dataclass(frozen=True)
class Written:
    """What a named neuron writes in a model.

    Attributes:
        named: The neuron.
        counting: The number that the first layer is taken to have.
        words: Its words in the model, most likely first.
        found: Those of the paper's words that are among them.
    """

    named: NamedNeuron
    counting: int
    words: tuple[str, ...]
    found: tuple[str, ...]


class NamedNeurons:
    """The neurons to check, and how (`evaluate=named`).

    Args:
        neurons: Of each: `concept`, `modality`, `neuron` ("L23.U5318") and `words`.
        words: Words of a neuron that count.

    Raises:
        ConfigError: a neuron is not described this way, or the number is no integer of at least 1.
    """

    def __init__(self, *, neurons: Sequence[Mapping[str, Any]], words: int = 10) -> None:
        self.words = whole("evaluate.words", words, least=1, error=ConfigError)
        self.neurons = tuple(map(_named, neurons))
        if not any(one.words for one in self.neurons):
            raise ConfigError("evaluate.neurons: expected at least one neuron with words to check")

    def check(self, mllm: MLLM) -> list[Written]:
        """What every neuron writes, with the layers counted from 0 and from 1, in that order.

        Raises:
            InputError: the model has no such neuron.
        """
        book, found = WordBook(mllm, count=self.words), []
        for one in self.neurons:
            for counting in COUNTINGS:
                layer = one.neuron.layer - counting
                if layer < 0:
                    raise InputError(f"{one.neuron} is no neuron where layers count from {counting}")
                (words,) = book([Neuron(layer, one.neuron.unit)])
                here = tuple(word for word in one.words if word in words)
                found.append(Written(one, counting, words, here))
        return found


def shares(written: Sequence[Written]) -> dict[int, float]:
    """For each counting, the share of the paper's words that are found: a mean over neurons with words."""
    found: dict[int, float] = {}
    for counting in COUNTINGS:
        rows = [one for one in written if one.counting == counting and one.named.words]
        found[counting] = sum(len(one.found) / len(one.named.words) for one in rows) / len(rows)
    return found


def verdict(by_counting: Mapping[int, float]) -> str:
    """Which counting of the layers fits, in a sentence."""
    zero, one = by_counting[0], by_counting[1]
    if zero == one:
        why = "no word was found" if zero == 0 else f"both find {zero:.0%} of the words"
        return f"neither counting of the layers fits better: {why}"
    best = 0 if zero > one else 1
    return (
        f"the paper's layers count from {best}: {by_counting[best]:.0%} of its words are found, "
        f"{by_counting[1 - best]:.0%} if they counted from {1 - best}"
    )


def _named(entry: Mapping[str, Any]) -> NamedNeuron:
    wanted = {"concept", "modality", "neuron", "words"}
    if not isinstance(entry, Mapping) or set(entry) != wanted:
        got = sorted(entry) if isinstance(entry, Mapping) else entry
        raise ConfigError(f"evaluate.neurons: expected {', '.join(sorted(wanted))} of each neuron, got {got}")
    try:
        neuron = Neuron.parse(str(entry["neuron"]))
    except ValueError as error:
        raise ConfigError(f"evaluate.neurons: {error}") from error
    words = tuple(map(str, entry["words"] or ()))
    return NamedNeuron(str(entry["concept"]), str(entry["modality"]), neuron, words)
