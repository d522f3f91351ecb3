"""Pairs of texts about scenes with how much they say the same: what `scene_similarity` is trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from nam.data.batches import Batch
from nam.world.language import Facts, canonical_facts, facts_of, leave_out, parse, phrase
from nam.world.scene import COLOURS, NOUNS, PLACES, sample_scene, split_of
from nam.world.tokenizer import EOS, PAD, UNK, build_tokenizer
from nam.world.vocabulary import vocabulary
from nam.world.words import pick, surface_forms

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

#: Most tokens of a pair.
LENGTH = 64

_MOST_WORDS = 6
_ANSWERS = ("{} .", "here is {} :")


def statements(facts: Facts) -> frozenset[tuple[str, ...]]:
    """What facts state, one tuple each: (noun,) and (noun, colour) of every thing, and ("at", place).

    >>> sorted(statements(Facts((("horse", "red"), ("car", None)), "grass")))
    [('at', 'grass'), ('car',), ('horse',), ('horse', 'red')]
    """
    things = {(noun,) for noun, _ in facts.things}
    colours = {(noun, colour) for noun, colour in facts.things if colour}
    places = {("at", facts.place)} if facts.place else set()
    return frozenset(things | colours | places)


def overlap(a: Facts, b: Facts) -> float:
    """How much two texts say the same: the F-score of their statements, 2 |A and B| / (|A| + |B|).

    The scene tuples and the score of SPICE (Anderson et al. 2016). Symmetric, from 0 to 1, whatever the order
    of the things; 0 where neither states anything.
    """
    left, right = statements(a), statements(b)
    return 2 * len(left & right) / max(len(left) + len(right), 1)


def perturb(facts: Facts, rng: np.random.Generator) -> Facts:
    """The same facts after up to three changes: another noun, colour or place, a thing more or less, less
    said, or the things the other way round."""
    for _ in range(int(rng.integers(4))):
        facts = pick(rng, _CHANGES)(facts, rng)
    return facts


def word_list(facts: Facts, rng: np.random.Generator) -> str:
    """Up to six words as a neuron writes them, joined by ", ": forms of a thing, of the facts or another, and
    any others; a quarter of the lists have no thing in mind."""
    words: list[str] = []
    if rng.random() < 0.75:
        noun = pick(rng, facts.things)[0] if rng.random() < 0.6 else pick(rng, NOUNS)
        forms = rng.permutation(surface_forms(noun)).tolist()
        words = forms[: int(rng.integers(1, _MOST_WORDS))]
    if facts.place and rng.random() < 0.2:
        words.append(facts.place if rng.random() < 0.6 else pick(rng, PLACES))
    while len(words) < 2 or (len(words) < _MOST_WORDS and rng.random() < 0.6):
        words.append(pick(rng, _words()))
    different = list(dict.fromkeys(words))[:_MOST_WORDS]
    return ", ".join(rng.permutation(different).tolist())


@dataclass(frozen=True, kw_only=True)
class SimilarPairs:
    """input_ids, token_type_ids, attention_mask (B, T) of a caption and a second text, and their overlap
    (B,), from 0 to 1.

    The second text is a list of words, or a caption of the same facts perturbed, or of another scene.
    Training captions hold training combinations only; in other splits the first caption's are the split's.

    words: share of word lists. other: share of captions of another scene. canonical: share of canonical
    captions. answers: share worded as answers, "... ." or "here is ... :". omit: share of first captions that
    leave something out. held_out: phrasings never trained on.
    """

    words: float = 0.4
    other: float = 0.1
    canonical: float = 0.3
    answers: float = 0.3
    omit: float = 0.25
    held_out: bool = False

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        return pair_tokenizer()

    def __call__(self, rng: np.random.Generator, n: int, split: str) -> Batch:
        firsts, seconds, labels = zip(*(self.pair(rng, split) for _ in range(n)), strict=True)
        encoded = self.tokenizer(
            list(firsts), list(seconds), padding=True, truncation=True, return_tensors="pt"
        )
        return {**encoded, "overlap": torch.tensor(labels, dtype=torch.float32)}

    def pair(self, rng: np.random.Generator, split: str) -> tuple[str, str, float]:
        """A caption, a second text, and their overlap."""
        facts = _facts(rng, split)
        said = leave_out(facts, rng) if rng.random() < self.omit else facts
        kind = rng.random()
        if kind < self.words:
            second = word_list(said, rng)
            return self._say(said, rng), second, overlap(said, parse(second))
        while True:
            changed = _facts(rng, split) if kind < self.words + self.other else perturb(facts, rng)
            if split != "train" or _all_trained(changed):
                break
        return self._say(said, rng), self._say(changed, rng), overlap(said, changed)

    def _say(self, facts: Facts, rng: np.random.Generator) -> str:
        frame = pick(rng, _ANSWERS) if rng.random() < self.answers else "{}"
        if rng.random() < self.canonical:
            return frame.format(canonical_facts(facts))
        noun_phrase = frame.startswith("here")
        return frame.format(phrase(facts, rng, held_out=self.held_out, noun_phrase=noun_phrase))


def pair_tokenizer() -> PreTrainedTokenizerFast:
    """The world's tokenizer as BERT's: </s> first </s> second </s>, with token_type_ids."""
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    core = build_tokenizer().backend_tokenizer
    core.post_processor = processors.TemplateProcessing(
        single=f"{EOS} $A {EOS}",
        pair=f"{EOS} $A {EOS} $B:1 {EOS}:1",
        special_tokens=[(EOS, core.token_to_id(EOS))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        cls_token=EOS,
        sep_token=EOS,
        pad_token=PAD,
        unk_token=UNK,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        model_max_length=LENGTH,
    )


def _facts(rng: np.random.Generator, split: str) -> Facts:
    return facts_of(sample_scene(rng, split=split, two_things=0.45))


def _all_trained(facts: Facts) -> bool:
    """Whether every combination that is stated in full is one of the training split's."""
    return all(
        split_of(noun, colour, facts.place) == "train"
        for noun, colour in facts.things
        if colour and facts.place
    )


def _with(facts: Facts, index: int, thing: tuple[str, str | None]) -> Facts:
    things = list(facts.things)
    things[index] = thing
    return Facts(tuple(things), facts.place)


def _new_noun(facts: Facts, rng: np.random.Generator) -> str:
    named = {noun for noun, _ in facts.things}
    return pick(rng, [noun for noun in NOUNS if noun not in named])


def _other_noun(facts: Facts, rng: np.random.Generator) -> Facts:
    index = int(rng.integers(len(facts.things)))
    return _with(facts, index, (_new_noun(facts, rng), facts.things[index][1]))


def _other_colour(facts: Facts, rng: np.random.Generator) -> Facts:
    index = int(rng.integers(len(facts.things)))
    noun, colour = facts.things[index]
    return _with(facts, index, (noun, pick(rng, [other for other in COLOURS if other != colour])))


def _other_place(facts: Facts, rng: np.random.Generator) -> Facts:
    return Facts(facts.things, pick(rng, [place for place in PLACES if place != facts.place]))


def _more_or_less(facts: Facts, rng: np.random.Generator) -> Facts:
    if len(facts.things) > 1:
        return Facts((pick(rng, facts.things),), facts.place)
    return Facts((*facts.things, (_new_noun(facts, rng), pick(rng, COLOURS))), facts.place)


def _turn_round(facts: Facts, rng: np.random.Generator) -> Facts:
    return Facts(facts.things[::-1], facts.place)


_CHANGES: tuple[Callable[[Facts, np.random.Generator], Facts], ...] = (
    _other_noun, _other_colour, _other_place, _more_or_less, leave_out, _turn_round,
)  # fmt: skip


@lru_cache(maxsize=1)
def _words() -> tuple[str, ...]:
    return tuple(word for word in vocabulary() if word.isalpha())
