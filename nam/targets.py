"""From a word that was said, or a region that was drawn, to a direction per position."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch

from nam.errors import TargetError
from nam.types import Concept, Generation, Target

if TYPE_CHECKING:
    from nam.mllm.base import MLLM
    from nam.relevance.base import RelevanceMap


def text_target(mllm: MLLM, generation: Generation, concept: Concept) -> Target:
    """The words of a concept in an answer: what each position's forward pass had to predict.

    Every occurrence of every form counts, in any case, and all tokens of a form that takes several.

    Args:
        mllm: The model that answered.
        generation: Its answer; the prompt is not looked at.
        concept: What is looked for, with its forms.

    Raises:
        TargetError: the tokenizer can spell no form of the concept, or none is in the answer.
    """
    spellable, single = _spellings(mllm.tokenizer, concept)
    if not spellable:
        raise TargetError(f"the tokenizer of {mllm.name} cannot spell any of: {', '.join(concept.words)}")
    places = _token_places(mllm.tokenizer, generation.answer_ids, spellable)
    if not places:
        raise TargetError(f"{concept.name!r} is not in the answer; looked for {', '.join(spellable)}")
    tokens = tuple(generation.answer_ids[place] for place in places)
    weight = mllm.unembedding.detach()
    rows = weight[torch.tensor(tokens, device=weight.device)]
    return Target(
        modality="text",
        positions=tuple(generation.spans.answer.start + place - 1 for place in places),
        directions=rows.to(torch.promote_types(rows.dtype, torch.float32)),
        token_ids=tokens,
        form_ids=frozenset(tokens) | single,
    )


def token_targets(mllm: MLLM, generation: Generation) -> list[Target]:
    """Every token of the answer by itself: its unembedding row, at the position that predicts it."""
    first, tokens = generation.spans.answer.start - 1, generation.answer_ids
    weight = mllm.unembedding.detach()
    rows = weight[torch.tensor(tokens, dtype=torch.long, device=weight.device)]
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    return [
        Target(
            modality="text",
            positions=(first + place,),
            directions=row,
            token_ids=(token,),
            form_ids=frozenset((token,)),
        )
        for place, (token, row) in enumerate(zip(tokens, rows.split(1), strict=True))
    ]


def image_target(generation: Generation, relevance_map: RelevanceMap) -> Target:
    """The drawn region of a concept, in a picture, a sound or a video: the relevance of the hidden state at
    each [IMG] position, or at those of the tokens that stand there.

    Args:
        generation: What was drawn.
        relevance_map: The relevance R of each [IMG] position.

    Raises:
        TargetError: there are no [IMG] tokens, or R does not fit them or is not finite.
    """
    values, positions = relevance_map.values, tuple(generation.spans.img)
    if not positions:
        raise TargetError(f"the answer {generation.text!r} has no [IMG] tokens: nothing was drawn")
    if values.ndim != 2 or len(values) != len(positions):
        raise TargetError(
            f"expected a relevance for each of {len(positions)} [IMG] positions, got {tuple(values.shape)}"
        )
    if not bool(values.isfinite().all()):
        raise TargetError("the relevance of the picture is not finite")
    directions = values.detach().to(torch.promote_types(values.dtype, torch.float32))
    return Target(
        modality=generation.medium,
        positions=positions,
        directions=directions,
        signed=relevance_map.signed,
    )


def single_tokens(tokenizer: Any, concept: Concept) -> frozenset[int]:
    """The tokens that are a whole form of the concept by themselves; none where every form takes several."""
    return _spellings(tokenizer, concept)[1]


def _spellings(tokenizer: Any, concept: Concept) -> tuple[list[str], frozenset[int]]:
    """The forms that the tokenizer can spell, and the tokens that are a whole form by themselves."""
    spellable, single = [], set()
    for form in concept.words:
        for word in dict.fromkeys((form, form.lower(), form.capitalize(), form.upper())):
            for text in (word, f" {word}"):
                ids = tokenizer(text, add_special_tokens=False)["input_ids"]
                back = tokenizer.decode(ids, clean_up_tokenization_spaces=False).strip() if ids else ""
                if not back or tokenizer.unk_token_id in ids or back.lower() != word.strip().lower():
                    continue
                spellable.append(form)
                if len(ids) == 1:
                    single.add(ids[0])
    return list(dict.fromkeys(spellable)), frozenset(single)


def _token_places(tokenizer: Any, ids: Sequence[int], forms: Sequence[str]) -> list[int]:
    """Which of the tokens spell a form, as a whole word of the text that they make together."""
    texts = [tokenizer.decode(ids[:stop], clean_up_tokenization_spaces=False) for stop in range(len(ids) + 1)]
    longest_first = sorted(forms, key=len, reverse=True)
    pattern = "|".join(rf"(?<!\w){re.escape(form)}(?!\w)" for form in longest_first)
    places = []
    for match in re.finditer(pattern, texts[-1], flags=re.IGNORECASE):
        for place, (before, after) in enumerate(pairwise(texts)):
            # A letter of several byte tokens shows as U+FFFD until its last token.
            begin, end = len(before.rstrip("\ufffd")), len(after)
            written = texts[-1][max(begin, match.start()) : min(end, match.end())]
            if written.strip():
                places.append(place)
    return sorted(set(places))
