"""What is asked about a captioned picture, whatever collection it comes from."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nam.data.concepts import concept_of, plural
from nam.data.items import MODALITIES, Item
from nam.errors import ConfigError, nearest
from nam.segmenter.labels import SYNONYMS, THINGS
from nam.types import Concept, Sample

#: Kinds of prompts about a picture, and what each is asked for: to describe it, to draw its caption, to look
#: at it and draw its caption.
KINDS: Mapping[str, str] = {"describe": "text", "draw": "both", "again": "both"}


def check_asking(kinds: Sequence[str], prompts: Mapping[str, str], limit: int | None) -> None:
    """Refuse what cannot be asked. Raises ConfigError, naming the key."""
    if not kinds:
        raise ConfigError(f"data.source.kinds is empty: name one or several of {', '.join(KINDS)}")
    for where, names in (("kinds", kinds), ("prompts", prompts)):
        for kind in names:
            if kind not in KINDS:
                raise ConfigError(f"data.source.{where}: unknown kind {kind!r} ({nearest(str(kind), KINDS)})")
    twice = [kind for place, kind in enumerate(kinds) if kind in kinds[:place]]
    if twice:
        raise ConfigError(f"data.source.kinds names {twice[0]!r} twice")
    for kind, prompt in prompts.items():
        try:
            prompt.format(caption="", concept="")
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise ConfigError(
                f"data.source.prompts.{kind} may hold {{caption}} and {{concept}}, got {prompt!r}"
            ) from error
    check_limit(limit)


def check_limit(limit: int | None) -> None:
    """Refuse a `data.source.limit` that leaves nothing. Raises ConfigError."""
    if limit is not None and limit < 1:
        raise ConfigError(f"data.source.limit must be at least 1, or null for all, got {limit}")


def ask(
    kind: str,
    *,
    index: int,
    name: str,
    image: Any,
    caption: str,
    concept: Concept,
    prompts: Mapping[str, str],
    seed: int,
    masks: Mapping[str, NDArray[np.bool_]] | None = None,
) -> Item:
    """The item of one kind about a picture.

    Args:
        kind: One of `KINDS`.
        index: Its place in the data.
        name: Of the picture; the item's id adds the kind.
        image: The picture.
        caption: What is on it.
        concept: What is looked for.
        prompts: Kind -> template; without one, nothing is said but the caption of what is to be drawn.
        seed: Of the whole; the picture's noise follows from it and the item's id.
        masks: Where the things are in the picture.
    """
    template = prompts.get(kind, "" if kind == "describe" else "{caption}")
    whole, shown = f"{name}-{kind}", kind != "draw"
    sample = Sample(
        id=whole,
        prompt=template.format(caption=caption, concept=concept.name),
        image=image if shown else None,
        seed=int(np.random.default_rng([seed, *whole.encode()]).integers(2**31)),
        concept=concept,
        caption=caption,
    )
    return Item(
        index=index, sample=sample, modalities=MODALITIES[KINDS[kind]], masks=masks if shown else None
    )


def subset(count: int, *, limit: int | None, seed: int) -> list[int]:
    """Places of at most `limit` of `count` things by chance, ascending; None for all."""
    if limit is None or limit >= count:
        return list(range(count))
    chosen = np.random.default_rng(seed).permutation(count)[:limit]
    return sorted(chosen.tolist())


def coco_concepts(names: Collection[str] = ()) -> dict[str, Concept]:
    """COCO's things by their names, with every word that stands for them; of these names, or all.

    Raises:
        ConfigError: a name that is none of them.
    """
    for name in names:
        if name not in THINGS:
            raise ConfigError(f"data.source.concepts: unknown thing {name!r} ({nearest(str(name), THINGS)})")
    words: dict[str, list[str]] = {name: [plural(name)] for name in THINGS if not names or name in names}
    for word, labels in SYNONYMS.items():
        if len(labels) == 1 and labels[0] in words:
            words[labels[0]] += [word, plural(word)]
    return {name: concept_of(name, forms) for name, forms in words.items()}


class Mentions:
    """Finds concepts in texts, by whole words; of "hot dog" and "dog" the longer counts.

    Args:
        concepts: By name.
        others: Concepts that are read over, so that their words count for none of the above.
    """

    def __init__(self, concepts: Mapping[str, Concept], *, others: Collection[Concept] = ()) -> None:
        self.concepts = dict(concepts)
        self._names = {word.lower(): "" for concept in others for word in concept.words}
        self._names |= {word.lower(): name for name, one in concepts.items() for word in one.words}
        words = sorted(map(re.escape, self._names), key=len, reverse=True)
        self._pattern = re.compile(rf"(?<!\w)(?:{'|'.join(words)})(?!\w)")

    def __call__(self, text: str) -> list[str]:
        """Names of the concepts that the text mentions, in the order in which it does."""
        found = (self._names[match] for match in self._pattern.findall(text.lower()))
        return list(dict.fromkeys(name for name in found if name))
