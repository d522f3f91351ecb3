"""What a report shows, ready for its template: plain values, nothing escaped yet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from nam.report.figures import layer_counts, layer_figure, top_sizes
from nam.report.media import CAPTIONS, OTHERS, picture_of, sound_of
from nam.report.overlays import data_uri, enlarge, marked_text, overlay
from nam.report.tops import NOT_KEPT
from nam.store import Run
from nam.store.rows import MODALITIES

if TYPE_CHECKING:
    from pandas import DataFrame

    from nam.types import Modality

#: Words of one neuron, by layer and unit.
Words = Mapping[tuple[int, int], str]


#: Side of the small pictures of the overview, in pixels.
THUMBNAIL = 112


@dataclass(frozen=True)
class NeuronView:
    """A row of a table of neurons; `bar` is the length of its bar, 0 to 1."""

    name: str
    words: Markup
    score: str
    bar: float
    both: bool = False


@dataclass(frozen=True)
class OtherView:
    """Neurons of sounds or videos: letter, title, rows, and of how many samples they are the mean."""

    kind: str
    title: str
    rows: tuple[NeuronView, ...]
    count: int = 1


@dataclass(frozen=True)
class ConceptView:
    """A concept and a method: its neurons, where they lie, how many are shared."""

    concept: str
    method: str
    text: tuple[NeuronView, ...]
    image: tuple[NeuronView, ...]
    text_count: int
    image_count: int
    figure: str | None
    overlap: tuple[tuple[int, int], ...]
    others: tuple[OtherView, ...] = ()


@dataclass(frozen=True)
class Heat:
    """The relevance of one [IMG] position: 0 to 1 of the largest, and the value itself."""

    share: float
    value: float


@dataclass(frozen=True)
class SampleView:
    """One sample."""

    id: str
    prompt: Markup
    text: Markup
    status: str
    error: str
    input: str | None
    picture: str | None
    caption: str
    sound: str | None
    overlay: str | None
    thumbnail: str | None
    relevance: tuple[Heat, ...]
    neurons: tuple[tuple[str, tuple[NeuronView, ...], tuple[NeuronView, ...], tuple[OtherView, ...]], ...]


def concept_view(
    run: Run, concept: str, forms: Sequence[str], method: str, *, top: int, words: Words
) -> ConceptView:
    """What the run found out about a concept (its words are `forms`) by one method, over all its samples."""
    means = {
        modality: run.scores(concept, modality, method)
        for modality in MODALITIES
        if (concept, modality, method) in run.keys
    }
    shown = {modality: mean.top(top) for modality, mean in means.items()}
    shared = _shared(shown)
    tables: dict[str, tuple[NeuronView, ...]] = {
        modality: _table(
            places, [float(means[modality].scores[place]) for place in places], words, shared, forms
        )
        for modality, places in shown.items()
    }
    figure, overlap = None, []
    if {"text", "image"} <= means.keys():
        text, image = means["text"], means["image"]
        counts = {size: layer_counts(text, image, top=size) for size in top_sizes(text.scores.size)}
        figure = layer_figure(counts)
        overlap = [(size, int(kinds["T and I"].sum())) for size, kinds in counts.items()]
    return ConceptView(
        concept=concept,
        method=method,
        text=tables.get("text", ()),
        image=tables.get("image", ()),
        text_count=means["text"].count if "text" in means else 0,
        image_count=means["image"].count if "image" in means else 0,
        figure=figure,
        overlap=tuple(overlap),
        others=tuple(
            OtherView(*OTHERS[modality], tables[modality], means[modality].count)
            for modality in OTHERS
            if modality in means
        ),
    )


def sample_views(run: Run, rows: DataFrame, neurons: DataFrame) -> list[SampleView]:
    """The samples of these rows of samples.parquet, with those of `neurons` that are theirs."""
    return [_sample(run, row, neurons[neurons["sample"] == row["id"]]) for row in rows.to_dict("records")]


def forms_of(row: Mapping[Any, Any]) -> list[str]:
    """The words that stand for the concept of a row of samples.parquet."""
    return [] if row["forms"] is None else [str(form) for form in row["forms"]]


def bars(scores: Sequence[float]) -> list[float]:
    """Lengths of the bars of scores in descending order, the first 1.

    Scores that are all negative are logarithms: the bar of one shows by what factor it is smaller.

    >>> bars([4.0, 1.0]), bars([0.0, -math.log(2)])
    ([1.0, 0.25], [1.0, 0.5])
    """
    if not scores:
        return []
    first = scores[0]
    if first <= 0:
        return [math.exp(min(0.0, score - first)) for score in scores]
    return [min(1.0, max(0.0, score / first)) for score in scores]


def _table(
    places: Sequence[tuple[int, int]],
    scores: Sequence[float],
    words: Words,
    shared: set[tuple[int, int]],
    forms: Sequence[str],
) -> tuple[NeuronView, ...]:
    return tuple(
        NeuronView(
            name=f"L{place[0]}.U{place[1]}",
            words=Markup(marked_text(_readable(words.get(place, NOT_KEPT)), forms)),
            score=f"{score:.2f}" if score == 0 or 0.01 <= abs(score) < 1e4 else f"{score:.1e}",
            bar=bar,
            both=place in shared,
        )
        for place, score, bar in zip(places, scores, bars(scores), strict=True)
    )


def _shared(places: Mapping[Modality, Sequence[tuple[int, int]]]) -> set[tuple[int, int]]:
    """Neurons that stand among those that say it and among those that draw it, in whatever medium."""
    drawn = {place for modality, mine in places.items() if modality != "text" for place in mine}
    return set(places.get("text", ())) & drawn


def _readable(words: str) -> str:
    """The words of a neuron, with punctuation among them in quotes."""
    return ", ".join(
        word if any(map(str.isalnum, word)) or not word else f"“{word}”" for word in words.split(", ")
    )


def _sample(run: Run, row: Mapping[Any, Any], neurons: DataFrame) -> SampleView:
    forms = forms_of(row)
    picture, mask = picture_of(run, row["picture"]), picture_of(run, row["mask"])
    asked = picture_of(run, row["input"])
    marked = None
    if picture is not None and mask is not None:
        marked = overlay(picture, np.asarray(mask.convert("L")) > 127)
    wanted: list[Modality] = [name for name in OTHERS if _text(row.get(f"{name}_status"))]
    return SampleView(
        id=_text(row["id"]),
        prompt=Markup(marked_text(_text(row["prompt"]), forms)),
        text=Markup(marked_text(_text(row["text"]), forms)),
        status=_text(row["status"]),
        error=_text(row["error"]),
        input=data_uri(enlarge(asked)) if asked else None,
        picture=data_uri(enlarge(picture)) if picture else None,
        caption=next((CAPTIONS[name] for name in wanted), "picture drawn"),
        sound=sound_of(run, row.get("sound")),
        overlay=data_uri(marked) if marked else None,
        thumbnail=data_uri(enlarge(marked, side=THUMBNAIL)) if marked else None,
        relevance=_heat(row["relevance"]),
        neurons=tuple(_sample_tables(neurons, forms)),
    )


def _sample_tables(
    neurons: DataFrame, forms: Sequence[str]
) -> list[tuple[str, tuple[NeuronView, ...], tuple[NeuronView, ...], tuple[OtherView, ...]]]:
    """Per method: its T-neurons, its I-neurons, and those of sounds and videos."""
    found = []
    for method in dict.fromkeys(neurons["method"]):
        mine = neurons[neurons["method"] == method]
        parts = {name: mine[mine["modality"] == name].sort_values("rank") for name in MODALITIES}
        places = {
            name: [(int(a), int(b)) for a, b in zip(part["layer"], part["unit"], strict=True)]
            for name, part in parts.items()
        }
        shared = _shared(places)
        tables = {}
        for name, part in parts.items():
            words = dict(zip(places[name], part["words"], strict=True))
            scores = [float(score) for score in part["score"]]
            tables[name] = _table(places[name], scores, words, shared, forms)
        others = tuple(OtherView(*OTHERS[name], tables[name]) for name in OTHERS if tables[name])
        found.append((method, tables["text"], tables["image"], others))
    return found


def _heat(relevance: Any) -> tuple[Heat, ...]:
    if relevance is None or not np.size(relevance) or not np.isfinite(relevance).all():
        return ()
    values = np.abs(np.asarray(relevance, dtype=float))
    return tuple(Heat(float(value / (values.max() or 1.0)), float(value)) for value in values)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
