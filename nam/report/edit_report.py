"""report.html of an edit: what was asked, what changed, what did not, and how to apply it. Opens offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nam.report.edit_figures import CURVES, Matrix, curve_figure, matrix_figure
from nam.report.figures import svg_uri
from nam.report.overlays import data_uri, enlarge
from nam.report.pages import moment, write_page

if TYPE_CHECKING:
    from PIL.Image import Image

    from nam.editor.delta import Delta
    from nam.report.edit_rows import Row
    from nam.report.grid import Column

#: Most neurons that are listed, those that changed most.
NEURONS = 40

#: Most prompts that are listed.
PROMPTS = 12

#: Between words, one of which may be a comma.
BETWEEN = " \N{MIDDLE DOT} "

#: Side of a picture, in pixels.
SIDE = 160


@dataclass(frozen=True)
class NeuronView:
    """A neuron whose value vector changed: the words it wrote and writes, and by how much it changed."""

    name: str
    before: str
    after: str
    size: str
    bar: float


@dataclass(frozen=True)
class PictureView:
    """A request, and its pictures and words before and after; None where nothing was drawn."""

    asked: str
    before: str | None
    after: str | None
    said_before: str
    said_after: str


def build_edit_report(
    folder: Path,
    *,
    delta: Delta,
    edit: Mapping[str, str],
    settings: Mapping[str, Any],
    manifest: Mapping[str, Any],
    rows: Sequence[Row],
    groups: Sequence[tuple[str, Sequence[Column]]],
    tables: Mapping[str, Matrix],
    curve: Sequence[Mapping[str, float]],
    words: Sequence[tuple[Sequence[str], Sequence[str]]],
    total: int,
) -> Path:
    """Write report.html into the run folder.

    Args:
        folder: The run folder, which holds the saved delta.
        delta: What was changed.
        edit: Source, target and modality.
        settings: The resolved configuration.
        manifest: What made the run.
        rows: The measures.
        groups: Title and columns of the grid: the source's requests, then the other things'.
        tables: What was drawn where each thing was asked for, "before" and "after".
        curve: What the editor logged at each step; empty for a delta that was read from a file.
        words: Of each of the delta's neurons, before and after.
        total: Neurons of the model.

    Raises:
        StoreError: it cannot be written.
    """
    return write_page(
        "edit.html.j2",
        folder,
        edit=edit,
        run=folder.name,
        delta=delta,
        headline=headline(rows),
        groups=[(title, [_picture(column) for column in columns]) for title, columns in groups],
        rows=rows,
        matrix=svg_uri(matrix_figure(tables["before"], tables["after"])),
        curve=curve_figure(curve),
        last=curve[-1] if curve else {},
        curves=CURVES,
        neurons=changes(delta, words),
        layers={layer: len(units) for layer, units in delta.neurons.by_layer().items()},
        total=total,
        prompts=list(delta.manifest.get("prompts", ()))[:PROMPTS],
        settings=settings,
        load=_load(settings),
        facts=_facts(delta, settings, manifest),
    )


def headline(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """The figures that a reader wants first, each with what it is: of the aim, and of what stayed."""
    aims = [row for row in rows if row.aimed and row.share is not None][:2]
    found = [(row.after, f"{row.title}{f' (before: {row.before})' if row.before else ''}") for row in aims]
    stays = {
        "others_drawn": "of everything else is drawn as before",
        "others_text": "of everything else is answered in the same words",
    }
    return found + [(row.after, stays[row.name]) for row in rows if row.name in stays]


def changes(delta: Delta, words: Sequence[tuple[Sequence[str], Sequence[str]]]) -> list[NeuronView]:
    """The neurons that changed most, at most NEURONS, the first one first.

    Args:
        delta: The change.
        words: Of each of its neurons, before and after.
    """
    moved = (delta.edited.double() - delta.original.double()).norm(dim=1)
    share = (moved / delta.original.double().norm(dim=1).clamp(min=1e-12)).tolist()
    most = float(moved.max()) or 1.0
    order = moved.argsort(descending=True, stable=True).tolist()[:NEURONS]
    return [
        NeuronView(
            name=str(delta.neurons.neurons[i]),
            before=BETWEEN.join(words[i][0]),
            after=BETWEEN.join(words[i][1]),
            size=f"{float(moved[i]):.2f} ({share[i]:.0%})",
            bar=float(moved[i]) / most,
        )
        for i in order
    ]


def _picture(column: Column) -> PictureView:
    def uri(picture: Image | None) -> str | None:
        return None if picture is None else data_uri(enlarge(picture, side=SIDE))

    return PictureView(
        column.title, uri(column.before), uri(column.after), column.said_before, column.said_after
    )


def _load(settings: Mapping[str, Any]) -> str:
    """The call that loads this run's model."""
    given = [str(one).partition("=") for one in settings.get("overrides", ())]
    name = next((value for key, _, value in given if key == "mllm"), "tiny_gill")
    more = {
        key.removeprefix("mllm."): settings["mllm"][key.removeprefix("mllm.")]
        for key, _, _ in given
        if key.startswith("mllm.") and key.removeprefix("mllm.") in settings["mllm"]
    }
    return f"nam.load({', '.join([repr(name), *(f'{key}={value!r}' for key, value in more.items())])})"


def _facts(delta: Delta, settings: Mapping[str, Any], manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What one needs to repeat the run, as name and value."""
    saved = bool(settings.get("edit", {}).get("apply"))
    made = delta.manifest
    model = manifest.get("model", {})
    options = _pairs(made.get("settings") or {})
    facts: dict[str, Any] = {
        "model": f"{model.get('name')}, weights {model.get('revision')}",
        "editor": f"{made.get('editor', 'not known')}{': ' if options else ''}{options}",
        "steps": made.get("steps"),
        "neurons selected by": _selection(made),
        "pairs of requests used": made.get("pairs"),
        "pairs left out": "; ".join(f"{n} x {why}" for why, n in (made.get("skipped") or {}).items()),
        "seed": manifest.get("seed"),
        "command line": " ".join(map(str, settings.get("overrides", ()))),
        "made by the command line": " ".join(map(str, made.get("overrides", ()) if saved else ())),
        "seconds": _pairs({name: f"{spent:.1f}" for name, spent in manifest.get("seconds", {}).items()}),
        "started": moment(manifest.get("started")),
        "versions": _pairs(manifest.get("versions", {})),
        "commit": manifest.get("git_commit"),
        "machine": _pairs(manifest.get("machine", {})),
    }
    return [(name, str(value)) for name, value in facts.items() if value not in (None, "", [])]


def _selection(made: Mapping[str, Any]) -> str:
    chosen = made.get("selection")
    if not isinstance(chosen, Mapping):
        return ""
    by = {
        "method": f"the scores of {made.get('method') or 'a method'}",
        "active": "activity, as a control",
        "random": f"chance, as many in each layer as {made.get('method') or 'a method'} has, as a control",
        "layer": "their layer, all of it",
    }
    found = [by.get(str(chosen.get("by")), str(chosen.get("by")))]
    if chosen.get("contrast") and chosen.get("by") != "layer":
        found.append("less the mean of all other concepts")
    if chosen.get("kind"):
        found.append(f"of kind {chosen['kind']}")
    if chosen.get("layers"):
        found.append(f"layers {chosen['layers']}")
    return ", ".join(found)


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items() if value is not None)
