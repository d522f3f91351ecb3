"""The measures of an edit as one reads them: in the terminal and in report.html."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

#: Headings of the groups of measures, in their order.
GROUPS = {
    "effect": "What the edit is for",
    "follows": "What should come along",
    "leak": "The {source} {way}: not meant to change",
    "others": "Everything else, compared with before: it should stay",
    "size": "How far things moved",
}

_WAYS = {"text": "in words", "image": "in pictures"}


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A figure of `nam.evaluate.editing`, and how to say it.

    Attributes:
        name: Of the figure.
        title: What is counted; {source} and {target} stand for the concepts.
        group: Under which of GROUPS. Of an edit of the other modality, "effect" and "follows" are leaks.
        modality: What it is about; None for both.
        aim: Whether an edit of that modality is meant to raise it.
        before: The unedited model's figure of the same kind; "" where there is none to compare with.
        form: How a value is written.
    """

    name: str
    title: str
    group: str
    modality: Literal["text", "image"] | None = None
    aim: bool = False
    before: str = ""
    form: str = "{:.0%}"


@dataclass(frozen=True)
class Row:
    """A measure with its values written out.

    Attributes:
        name: Of the measure.
        title, group: What is counted, and under which heading.
        before: Of the unedited model; "" where there is nothing to compare.
        after: Of the edited one.
        count: Prompts; "" where that is not known.
        aimed: Whether the edit was meant to raise it.
        share: Length of its bar, 0 to 1; None for what is no share.
    """

    name: str
    title: str
    group: str
    before: str
    after: str
    count: str
    aimed: bool
    share: float | None


def _own(name: str, title: str, group: str, modality: Literal["text", "image"], aim: bool = False) -> Measure:
    """A measure whose value before is its own, of the unedited model."""
    return Measure(name=name, title=title, group=group, modality=modality, aim=aim, before=name)


def _moved(name: str, title: str, form: str) -> Measure:
    return Measure(name=name, title=title, group="size", form=form)


MEASURES = (
    _own("drawn", "asked for a {source}, draws a {target} and no {source}", "effect", "image", True),
    _own("source_drawn", "asked for a {source}, still draws one", "effect", "image"),
    _own("said", "asked for a {source}, says {target} and not {source}", "effect", "text", True),
    _own("caption_said", "shown a {source}, says {target} and not {source}", "effect", "text", True),
    Measure(
        name="draw_p_target",
        title="probability of the word {target} where the answer said {source}",
        group="effect",
        modality="text",
        before="draw_p_target_before",
    ),
    Measure(
        name="clip_target",
        title="CLIPScore of its pictures with “{target}”",
        group="effect",
        modality="image",
        before="clip_target_before",
        form="{:.2f}",
    ),
    Measure(
        name="clip_source",
        title="CLIPScore of its pictures with “{source}”",
        group="effect",
        modality="image",
        before="clip_source_before",
        form="{:.2f}",
    ),
    Measure(
        name="colour_kept",
        title="drawn as a {target}: in the colour asked for",
        group="follows",
        before="colour_before",
    ),
    Measure(
        name="place_kept",
        title="drawn as a {target}: in the place asked for",
        group="follows",
        before="place_before",
    ),
    _own("riddle_drawn", "riddles about the {source}: draws a {target}", "follows", "image"),
    _own("riddle_said", "riddles about the {source}: says {target}", "follows", "text"),
    Measure(name="words_kept", title="asked to draw it, same words", group="leak", modality="text"),
    Measure(name="caption_kept", title="shown it, same words", group="leak", modality="text"),
    Measure(name="riddle_kept", title="riddles about it, same words", group="leak", modality="text"),
    Measure(name="picture_kept", title="same thing drawn", group="leak", modality="image"),
    Measure(name="others_drawn", title="same thing drawn", group="others"),
    Measure(name="others_scene", title="same thing, colour and place drawn", group="others"),
    Measure(name="others_text", title="asked to draw it, same words", group="others"),
    Measure(name="others_caption", title="shown it, same words", group="others"),
    Measure(name="others_riddle", title="riddles about it, same answer", group="others"),
    Measure(name="others_top1", title="same likeliest next word, after the same words", group="others"),
    _moved(
        "source_kl", "the next word about the {source}, after the same words: KL divergence (nats)", "{:.2g}"
    ),
    _moved("source_img", "the states that the {source} is drawn from: change over size", "{:.1%}"),
    _moved("others_kl", "the next word about everything else: likewise", "{:.2g}"),
    _moved("others_img", "the states that everything else is drawn from: change over size", "{:.1%}"),
    _moved("others_pixels", "pictures of everything else: mean change of a pixel", "{:.2%}"),
)


def rows_of(
    figures: Mapping[str, Any],
    before: Mapping[str, Any],
    counts: Mapping[str, int],
    *,
    source: str,
    target: str,
    modality: str,
) -> list[Row]:
    """The measures that have a value.

    Args:
        figures: After the edit.
        before: Of the unedited model.
        counts: Prompts behind a figure, where they are known.
        source, target, modality: Of the edit.
    """
    found: dict[str, list[Row]] = {group: [] for group in GROUPS}
    for measure in MEASURES:
        value, first = figures.get(measure.name), before.get(measure.before, figures.get(measure.before))
        meant = measure.modality is None or modality in (measure.modality, "both")
        if value is None or (meant and measure.group == "leak"):
            continue
        group = measure.group if meant else "leak"
        way = _WAYS.get(measure.modality or "", "")
        found[group].append(
            Row(
                name=measure.name,
                title=measure.title.format(source=source, target=target),
                group=GROUPS[group].format(source=source, way=way),
                before="" if first is None or not measure.before else measure.form.format(first),
                after=measure.form.format(value),
                count=str(counts.get(measure.name, "")),
                aimed=meant and measure.aim,
                share=None if group == "size" or "%" not in measure.form else value,
            )
        )
    return [row for rows in found.values() for row in rows]
