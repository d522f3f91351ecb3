"""What an edit did to how the model reads, words held, and to how CLIP sees its pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from nam.data.concepts import concept_of
from nam.editor.cases import streams_of
from nam.editor.reach import logits_of
from nam.errors import TargetError
from nam.evaluate.clipscore import clip_score
from nam.targets import single_tokens, text_target
from nam.world.language import Facts, canonical_facts

if TYPE_CHECKING:
    from nam.evaluate.clipscore import ClipScore
    from nam.evaluate.editing import Seen
    from nam.mllm.base import MLLM


def drift(
    mllm: MLLM, seen: Sequence[Seen], before: Sequence[Tensor], *, source: str, target: str | None = None
) -> dict[str, float | None]:
    """How the model, as it is now, reads the answers that it gave before: the same words, so that what
    moves is the neurons' doing and not that of other words in front.

    Args:
        mllm: The edited model.
        seen: The answers before.
        before: What entered the final norm then, as `streams_of` gives it.
        source: The thing that was edited.
        target: What it was to become; None leaves out the probabilities.

    Returns:
        Means; None where there is no prompt. For `source` and `others`: `_kl` of the words (nats), `_top1`
        agreement, and `_img`, the change of the states that draw over their size. For each kind of prompt
        about the source (`draw`, `caption`, `riddle`), where the answer first said the source: the
        probability of the target's word, `draw_p_target`, and of the source's, `draw_p_source`; what they
        were, `draw_p_target_before` and `draw_p_source_before`.
    """
    after = streams_of(mllm, [one.generation for one in seen])
    found: dict[str, list[float]] = {
        f"{group}_{name}": [] for group in ("source", "others") for name in ("kl", "top1", "img")
    }
    for one, old, new in zip(seen, before, after, strict=True):
        group = "source" if one.asked.noun == source else "others"
        words = len(one.generation.answer_ids) + 1
        p, q = (logits_of(mllm, x[:words].to(mllm.device)).log_softmax(-1) for x in (old, new))
        found[f"{group}_kl"].append(float((p.exp() * (p - q)).sum(-1).mean()))
        found[f"{group}_top1"].append(float((p.argmax(-1) == q.argmax(-1)).float().mean()))
        if len(one.generation.spans.img):
            found[f"{group}_img"].append(float((new[words:] - old[words:]).norm() / old[words:].norm()))
        if target is not None and group == "source" and one.asked.kind != "draw_riddle":
            for name, value in _probabilities(mllm, one, p, q, target).items():
                found.setdefault(f"{one.asked.kind}_{name}", []).append(value)
    return {name: float(np.mean(values)) if values else None for name, values in found.items()}


def _probabilities(mllm: MLLM, seen: Seen, old: Tensor, new: Tensor, target: str) -> dict[str, float]:
    """Of the target's and the source's word where the answer first said the source, of log-probabilities
    (P, V); nothing where it did not."""
    try:
        said = text_target(mllm, seen.generation, concept_of(seen.asked.noun))
    except TargetError:
        return {}
    row = said.positions[0] - (seen.generation.spans.answer.start - 1)
    found = {}
    for name, forms in (
        ("target", single_tokens(mllm.tokenizer, concept_of(target))),
        ("source", said.form_ids),
    ):
        ids = torch.tensor(sorted(forms), dtype=torch.long, device=old.device)
        found[f"p_{name}_before"] = float(old[row, ids].exp().sum())
        found[f"p_{name}"] = float(new[row, ids].exp().sum())
    return found


def resemblance(
    clip: ClipScore, before: Sequence[Seen], after: Sequence[Seen], *, source: str, target: str
) -> dict[str, list[float]]:
    """CLIP's view of the pictures that the source was asked for in, one value a picture.

    Returns:
        The score with the request's caption, `clip_source`, and with the target in the source's place,
        `clip_target`; the same before, `clip_source_before` and `clip_target_before`; and whether the
        target fits better, `clip_turned` (1 or 0).
    """
    names = ("clip_source_before", "clip_target_before", "clip_source", "clip_target")
    pairs = [
        (b.asked, b.generation.image, a.generation.image)
        for b, a in zip(before, after, strict=True)
        if b.asked.noun == source and b.asked.kind == "draw"
    ]
    kept = [(asked, (old, new)) for asked, old, new in pairs if old is not None and new is not None]
    if not kept:
        return {name: [] for name in (*names, "clip_turned")}
    found = {}
    for i, when in enumerate(("_before", "")):
        pictures = clip.embed_pictures([images[i] for _, images in kept])
        for name, noun in (("clip_source", source), ("clip_target", target)):
            texts = [canonical_facts(Facts(((noun, asked.colour),), asked.place)) for asked, _ in kept]
            found[name + when] = clip_score(clip.embed_texts(texts), pictures, weight=clip.weight).tolist()
    won = [t > s for s, t in zip(found["clip_source"], found["clip_target"], strict=True)]
    return {**found, "clip_turned": [float(value) for value in won]}
