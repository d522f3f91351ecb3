"""Which edits are measured: one `Job` a row, the most telling first."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Literal

from nam.editor.base import EditModality
from nam.editor.select import By, Kind

#: Pairs that differ in shape and in what is known about them.
PAIRS = (
    ("cat", "dog"),
    ("boat", "car"),
    ("sun", "moon"),
    ("tree", "flower"),
    ("bird", "fish"),
    ("horse", "cat"),
)

#: Of the selections and the growing edits, which take many rows a pair.
FEW_PAIRS = PAIRS[:3]

#: A chain through all things but one: each becomes the next one, as the unedited model draws it.
CHAIN = (
    "cat", "boat", "sun", "tree", "bird", "horse", "car", "moon", "flower", "fish", "dog", "house", "star",
)  # fmt: skip

#: Attribution methods under `configs/reduction` that select neurons.
METHODS = ("nam", "nam_total", "gradxact", "relp", "atp_star", "ig", "grad", "act", "acu", "ce")

#: Selections that use no method: as many random neurons of the same layers, and the most active ones.
CONTROLS: tuple[By, ...] = ("random", "active")

Section = Literal["editors", "modalities", "selections", "growth", "several"]
SECTIONS: tuple[Section, ...] = ("editors", "modalities", "several", "growth", "selections")

#: The naive baseline: fine-tuning of a whole layer.
LAYER = "layer"


def digest(*settings: object) -> str:
    """A short name for settings: what JSON can hold."""
    return hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=6).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Job:
    """One row.

    Attributes:
        section: Which table it belongs to.
        pairs: What is to become what; several at once in the section of that name.
        modality: Of the edit.
        editor: Its name under `configs/editor`, or LAYER.
        kind: Whose neurons: the words' (T), the pictures' (I), or a combination.
        by: How they are ranked.
        method: The attribution method.
        k: Neurons of each pair.
        order: "joint" or "sequential", of several pairs.
    """

    section: Section
    pairs: tuple[tuple[str, str], ...]
    modality: EditModality
    editor: str
    kind: Kind
    by: By = "method"
    method: str = "nam"
    k: int = 32
    order: str = "joint"

    @property
    def selection(self) -> str:
        """What tables call the way that neurons are chosen."""
        return self.method if self.by == "method" else {"random": "random, same layers"}.get(self.by, self.by)

    def file(self, settings: object) -> str:
        """The name of its file: readable, and another one for other settings."""
        source, target = self.pairs[0]
        words = [self.section, source, target, self.modality, self.editor, self.kind, self.by, self.method]
        return "-".join([*words, digest(asdict(self), settings)]) + ".json"


def plan(
    *,
    pairs: Sequence[tuple[str, str]] = PAIRS,
    few: Sequence[tuple[str, str]] = FEW_PAIRS,
    methods: Sequence[str] = METHODS,
    counts: Sequence[int] = (1, 4, 12),
    k: int = 32,
) -> list[Job]:
    """Every row, section by section."""
    return [
        *_editors(pairs, k),
        *_modalities(few, k),
        *_several(counts, k),
        *_choices("growth", few, methods, "rewrite", k),
        *_choices("selections", few, methods, "finetune", k),
    ]


def _editors(pairs: Sequence[tuple[str, str]], k: int) -> list[Job]:
    """Every editor; "both" of the better two alone."""
    found = []
    modalities: tuple[tuple[EditModality, tuple[str, ...]], ...] = (
        ("image", ("finetune", "rewrite", "rome", LAYER, "scale")),
        ("text", ("finetune", "rewrite", "rome", LAYER, "scale")),
        ("both", ("finetune", "rewrite")),
    )
    for modality, editors in modalities:
        for editor in editors:
            for pair in pairs:
                job = Job(
                    section="editors", pairs=(pair,), modality=modality, editor=editor, kind=modality, k=k
                )
                found.append(job)
    return found


def _modalities(pairs: Sequence[tuple[str, str]], k: int) -> list[Job]:
    """T-only, I-only and combined sets, for edits of pictures and of words."""
    kinds: tuple[Kind, ...] = (
        "text", "image", "both", "intersection", "text_without_image", "image_without_text",
    )  # fmt: skip
    wanted: tuple[EditModality, ...] = ("image", "text")
    return [
        Job(section="modalities", pairs=(pair,), modality=modality, editor="finetune", kind=kind, k=k)
        for modality in wanted
        for kind in kinds
        for pair in pairs
    ]


def _choices(
    section: Section, pairs: Sequence[tuple[str, str]], methods: Sequence[str], editor: str, k: int
) -> list[Job]:
    """Every attribution method and control."""
    ways: list[tuple[By, str]] = [("method", name) for name in methods]
    ways += [(by, methods[0]) for by in CONTROLS]
    return [
        Job(
            section=section,
            pairs=(pair,),
            modality="image",
            editor=editor,
            kind="image",
            by=by,
            method=method,
            k=k,
        )
        for by, method in ways
        for pair in pairs
    ]


def _several(counts: Sequence[int], k: int) -> list[Job]:
    """The first edits of the chain, at once and one after the other."""
    links = tuple(pairwise(CHAIN))
    return [
        Job(
            section="several",
            pairs=links[:count],
            modality="image",
            editor="finetune",
            kind="image",
            k=k,
            order=order,
        )
        for count in counts
        for order in (("joint", "sequential") if count > 1 else ("joint",))
    ]
