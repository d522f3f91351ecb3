"""Figures of many rows: shares and means with their intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.quality.rows import Measure, Spec

Rows = Sequence[Mapping[str, Any]]

#: What stands in a table beside the name of an editor or a selection: key, title, bound to reach.
#: A share is in percent; "norm" and the names of `drift` are means over the edits.
IMAGE = (
    Spec("drawn", "target drawn", 90),
    Spec("clip_turned", "CLIP prefers target"),
    Spec("colour_kept", "colour kept", 90),
    Spec("place_kept", "place kept"),
    Spec("others_drawn", "others' pictures kept", 95),
    Spec("others_text", "others' words kept", 95),
    Spec("words_kept", "source's words kept"),
    Spec("caption_kept", "its captions kept"),
    Spec("riddle_kept", "its riddles kept"),
    Spec("riddle_drawn", "riddle draws target"),
    Spec("others_pixels", "others' pixels", unit="/255"),
    Spec("others_kl", "others' KL", unit="nats"),
    Spec("norm", "l2 norm", unit=""),
)
TEXT = (
    Spec("caption_said", "target said of a picture", 90),
    Spec("said", "target said on request", 90),
    Spec("caption_p_target", "p(target)", unit=""),
    Spec("caption_p_source", "p(source)", unit=""),
    Spec("others_caption", "others' captions kept", 95),
    Spec("others_text", "others' words kept", 95),
    Spec("others_top1", "others' top-1 kept", 95, unit="top1"),
    Spec("others_drawn", "others' pictures kept", 95),
    Spec("riddle_said", "riddle says target"),
    Spec("picture_kept", "source's pictures kept"),
    Spec("others_kl", "others' KL", unit="nats"),
    Spec("norm", "l2 norm", unit=""),
)
BOTH = (
    Spec("drawn", "target drawn", 90),
    Spec("caption_said", "target said of a picture", 90),
    Spec("said", "target said on request", 90),
    Spec("colour_kept", "colour kept", 90),
    Spec("others_drawn", "others' pictures kept", 95),
    Spec("others_text", "others' words kept", 95),
    Spec("others_caption", "others' captions kept", 95),
    Spec("riddle_said", "riddle says target"),
    Spec("riddle_drawn", "riddle draws target"),
    Spec("others_kl", "others' KL", unit="nats"),
    Spec("norm", "l2 norm", unit=""),
)
GROWTH = (
    Spec("growth", "l2 norm at equal change", unit=""),
    Spec("turned", "edits and seeds that turned"),
    Spec("drawn", "target drawn at the end"),
    Spec("others_drawn", "others' pictures kept"),
    Spec("others_text", "others' words kept"),
    Spec("words_kept", "source's words kept"),
    Spec("others_pixels", "others' pixels", unit="/255"),
    Spec("others_kl", "others' KL", unit="nats"),
    Spec("norm", "l2 norm at the end", unit=""),
)
#: Of several edits there are few other things, and their words are asked of captions as well.
SEVERAL = (*IMAGE[:6], Spec("others_caption", "others' captions kept", 95), *IMAGE[6:])


def measure(rows: Rows, spec: Spec) -> Measure | None:
    """A figure over several edits; None where there is nothing to measure it by.

    Shares are pooled over edits, with Wilson's interval; means have a bootstrap interval over the edits.
    """
    rows = [row for row in rows if not row.get("problem")]
    if spec.key == "norm":
        return mean_over([row["norm"] for row in rows])
    if spec.key == "growth":
        return mean_over([norm for row in rows for norm in row["norms"] if norm is not None])
    if spec.key == "turned":
        return Measure.share([[norm is not None for norm in row["norms"]] for row in rows]) if rows else None
    if spec.unit == "%":
        values = [row["observed"].get(spec.key, []) for row in rows]
        values = [each for each in values if each]
        return Measure.share([[bool(value) for value in each] for each in values]) if values else None
    if spec.unit == "/255":
        return mean_over([255 * float(np.mean(row["observed"][spec.key])) for row in rows
                          if row["observed"].get(spec.key)])  # fmt: skip
    factor = 100.0 if spec.unit == "top1" else 1.0
    return mean_over([factor * row["drift"][spec.key] for row in rows if spec.key in row["drift"]])


def mean_over(values: Iterable[float], *, draws: int = 2000, seed: int = 0) -> Measure | None:
    """Mean with its percentile bootstrap interval, values drawn with replacement; None of nothing."""
    found = np.array(list(values), dtype=float)
    if not len(found):
        return None
    rng = np.random.default_rng(seed)
    means = found[rng.integers(len(found), size=(draws, len(found)))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Measure(float(found.mean()), float(low), float(high), len(found), tuple(found.round(4).tolist()))
