"""Cases of a model whose pictures are made of tokens: its words and a picture are answers of their own.

A picture is edited as words are. The target's picture stands behind the source's request already, and each of
its tokens should be predicted from the state that the target's own request gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from nam.editor.base import Case, Goal
from nam.editor.cases import Cases, Pair, answer, build_cases, draw, kept_case, streams_of
from nam.editor.delta import EditError
from nam.types import Generation, Sample, Spans

if TYPE_CHECKING:
    from nam.mllm.base import MLLM
    from nam.mllm.unified import Unified

#: Pictures that are drawn together.
DRAWN = 8


def cases_of(
    mllm: MLLM,
    goal: Goal,
    pairs: Sequence[Pair],
    others: Sequence[Sample],
    *,
    margin: float = 2.0,
    max_new_tokens: int = 40,
) -> Cases:
    """What an editor works on, whatever draws the model's pictures; see `build_cases`.

    Where pictures are made of tokens, requests that come with a picture are answered in words, the others in
    words and by a picture: an edit of pictures turns the picture of each pair, and keeps all words, the
    pictures of `others`, and what guidance reads instead of a request. An edit of words leaves pictures out.

    Raises:
        EditError, ConfigError: as `build_cases`; or no pair can be drawn.
    """
    if not mllm.draws_tokens or goal.modality == "text":
        return build_cases(mllm, goal, pairs, others, margin=margin, max_new_tokens=max_new_tokens)
    asked = [pair for pair in pairs if _draws(pair.source) and _draws(pair.target)]
    if not asked:
        raise EditError(
            f"{goal.source.name} cannot be edited into {goal.target.name}: no request to draw is given "
            f"({mllm.name} draws from words alone)"
        )
    if goal.modality == "both":
        words = replace(goal, modality="text")
        said = build_cases(mllm, words, pairs, others, margin=margin, max_new_tokens=max_new_tokens)
    else:
        stay = [*(pair.source for pair in pairs), *others]
        said = Cases(_kept(mllm, answer(mllm, stay, max_new_tokens=max_new_tokens)), 0, {})
    turned = _pictures(cast("Unified", mllm), asked)
    kept = _kept(mllm, _drawn(mllm, [one for one in others if _draws(one)]))
    return Cases((*turned, *kept, *said.cases), max(said.used, len(asked)), said.skipped)


def _pictures(mllm: Unified, pairs: Sequence[Pair]) -> tuple[Case, ...]:
    """The target's picture behind each source's request, with the states that the target's request gives; and
    behind what guidance reads instead, which stays."""
    sources = _drawn(mllm, [pair.source for pair in pairs])
    targets = _drawn(mllm, [pair.target for pair in pairs])
    read = [redrawn(one, other) for one, other in zip(sources, targets, strict=True)]
    rows = zip(read, streams_of(mllm, read), streams_of(mllm, targets), strict=True)
    turned = tuple(draw(kept_case(mllm, one, own), wanted, role="image") for one, own, wanted in rows)
    return turned + _kept(mllm, [free(mllm, one) for one in read] if mllm.sampling.guided else [])


def _kept(mllm: MLLM, generations: Sequence[Generation]) -> tuple[Case, ...]:
    rows = zip(generations, streams_of(mllm, generations), strict=True)
    return tuple(kept_case(mllm, one, stream) for one, stream in rows)


def redrawn(source: Generation, target: Generation) -> Generation:
    """The source's request with the target's picture behind it."""
    ids = (*source.token_ids[: source.spans.img.start], *target.token_ids[target.spans.img.start :])
    return replace(source, token_ids=ids, image=target.image, hidden=None)


def free(mllm: Unified, drawn: Generation) -> Generation:
    """The same picture behind what guidance reads instead of the request."""
    first = len(drawn.token_ids) - mllm.tokens_of_picture
    ids = mllm.free_ids(drawn.token_ids[:first])
    words = ids.index(mllm.begin_id)
    picture = len(ids) - words + mllm.tokens_of_picture
    spans = Spans.of_lengths(system=0, picture=0, text=words, answer=0, img=picture)
    return replace(drawn, token_ids=(*ids, *drawn.token_ids[first:]), spans=spans)


def _drawn(mllm: MLLM, samples: Sequence[Sample]) -> list[Generation]:
    found: list[Generation] = []
    for start in range(0, len(samples), DRAWN):
        found += mllm.generate_batch(samples[start : start + DRAWN], draw=True)
    return found


def _draws(sample: Sample) -> bool:
    return sample.image is None and not sample.pictures
