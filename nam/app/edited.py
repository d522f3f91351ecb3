"""What an edit leaves: figures before and after, the patch, the grid, the report, and a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nam.app.build import build
from nam.app.make_edit import CURVE_FILE, PATCH_FILE
from nam.app.quiet import say
from nam.clock import Clock
from nam.store.schema import MANIFEST_FILE, METRICS_FILE

if TYPE_CHECKING:
    from torch import Tensor

    from nam.editor.delta import Delta
    from nam.evaluate.clipscore import ClipScore
    from nam.evaluate.editing import Seen
    from nam.evaluate.judge import Judge
    from nam.mllm.base import MLLM
    from nam.report.edit_rows import Row
    from nam.report.grid import Column

GRID_FILE = "before_after.png"


@dataclass(frozen=True, eq=False)
class Before:
    """How the unedited model answers: `seen`, and what entered its final norm, `streams`."""

    seen: list[Seen]
    streams: list[Tensor]


@dataclass(frozen=True, eq=False)
class Markers:
    """Who marks the pictures: a classifier, and a CLIP or None."""

    judge: Judge
    clip: ClipScore | None


def load_markers(cfg: DictConfig) -> Markers:
    """The classifier and the CLIP that the configuration names.

    Raises:
        ConfigError: there is no such classifier or CLIP.
    """
    from nam.errors import ConfigError, ModelError
    from nam.evaluate.clipscore import load_clipscore
    from nam.evaluate.judge import load_judge

    for key in ("judge", "clip"):
        if not isinstance(cfg[key], str) and (key == "judge" or cfg[key] is not None):
            raise ConfigError(f"{key} must be a weights folder or an id, got {cfg[key]!r}")
    found: dict[str, Any] = {}
    for key, load in (("judge", load_judge), ("clip", load_clipscore)):
        try:
            found[key] = None if cfg[key] is None else load(cfg[key])
        except ModelError as error:
            raise ConfigError(f"{key}={cfg[key]}: {error}") from error
    return Markers(**found)


def look(cfg: DictConfig, mllm: MLLM, markers: Markers, clock: Clock) -> Before:
    """Ask the unedited model every held-out prompt.

    Raises:
        EditError: asked for the source or the target, it never says or never draws it.
    """
    from nam.editor.cases import streams_of
    from nam.editor.delta import EditError
    from nam.evaluate.editing import ask

    prompts, words = build(cfg.evaluate), cfg.edit.modality == "text"
    asked = prompts.asked(build(cfg.prompts), cfg.edit.source)
    with clock("before"), Console().status("before"):
        seen = ask(mllm, asked, markers.judge, batch=prompts.batch, words=words)
        streams = streams_of(mllm, [one.generation for one in seen])
    for key in ("source", "target"):
        noun = cfg.edit[key]
        mine = [one for one in seen if one.asked.noun == noun and one.asked.kind == "draw"]
        if mine and not any(noun in (one.said if words else one.drawn) for one in mine):
            raise EditError(
                f"{mllm.name} {'says' if words else 'draws'} {noun!r} in none of {len(mine)} requests for "
                f"it: there is nothing to edit; set edit.{key} to something that it knows"
            )
    return Before(seen, streams)


def close(
    cfg: DictConfig,
    mllm: MLLM,
    delta: Delta,
    before: Before,
    markers: Markers,
    loggers: list[Any],
    clock: Clock,
) -> dict[str, Any]:
    """Measure a delta on held-out prompts, save everything, print the table. Returns the figures."""
    from nam.evaluate.editing import matrix
    from nam.mllm.words import WordBook
    from nam.report.edit_report import build_edit_report
    from nam.report.edit_rows import rows_of
    from nam.report.editing import track_edit
    from nam.report.grid import before_after
    from nam.store.files import atomic, read_json, write_json

    folder = Path(cfg.run_dir)
    edit = {key: cfg.edit[key] for key in ("source", "target", "modality")}
    old_words = WordBook(mllm)(delta.neurons.neurons)
    after, first, figures, counts = measured(cfg, mllm, delta, before, markers, clock)
    with delta.applied(mllm):
        new_words = WordBook(mllm)(delta.neurons.neurons)
    figures |= {"norm": delta.norm, "neurons": len(delta.neurons), "seconds": dict(clock.seconds)}
    tables = {"before": matrix(before.seen), "after": matrix(after)}
    delta = replace(delta, manifest={**delta.manifest, "figures": figures})
    delta.save(folder / PATCH_FILE)
    groups = columns_of(before.seen, after, source=cfg.edit.source, target=cfg.edit.target)
    grid = before_after(groups)
    with atomic(folder / GRID_FILE) as temporary:
        grid.save(temporary, format="png")
    write_json(folder / METRICS_FILE, {**figures, "before": first, "counts": counts, "matrix": tables})
    rows = rows_of(figures, first, counts, **edit)
    settings: Any = OmegaConf.to_container(cfg, resolve=True)
    manifest = finished_manifest(folder, clock)
    curve = folder / CURVE_FILE
    report = build_edit_report(
        folder,
        delta=delta,
        edit=edit,
        settings=settings,
        manifest=manifest,
        rows=rows,
        groups=groups,
        tables=tables,
        curve=read_json(curve)["steps"] if curve.is_file() else [],
        words=list(zip(old_words, new_words, strict=True)),
        total=len(mllm.ffn_sites) * mllm.ffn_sites[0].width,
    )
    write_json(folder / MANIFEST_FILE, manifest)
    track_edit(
        loggers, settings=settings, figures=figures, tables=tables, grid=grid, patch=folder / PATCH_FILE
    )
    _print(rows, delta, clock, [folder / PATCH_FILE, folder / GRID_FILE, report], edit)
    return figures


def measured(
    cfg: DictConfig, mllm: MLLM, delta: Delta, before: Before, markers: Markers, clock: Clock
) -> tuple[list[Seen], dict[str, Any], dict[str, Any], dict[str, int]]:
    """The answers with the delta, the figures of the unedited and of the edited model, and how many prompts
    are behind each."""
    import numpy as np

    from nam.evaluate.edit_reading import drift, resemblance
    from nam.evaluate.editing import ask, measure, observe

    prompts, names = build(cfg.evaluate), {"source": cfg.edit.source, "target": cfg.edit.target}
    with clock("after"), Console().status("after"):
        with delta.applied(mllm):
            asked, words = [one.asked for one in before.seen], cfg.edit.modality == "text"
            after = ask(mllm, asked, markers.judge, batch=prompts.batch, words=words)
            moved = drift(mllm, before.seen, before.streams, **names)
        observed = observe(before.seen, after, **names)
        if markers.clip is not None:
            observed |= resemblance(markers.clip, before.seen, after, **names)
    figures: dict[str, Any] = {name: float(np.mean(found)) for name, found in observed.items() if found}
    counts = {name: len(found) for name, found in observed.items()}
    return after, measure(before.seen, before.seen, **names), {**figures, **moved}, counts


def columns_of(
    before: Sequence[Seen], after: Sequence[Seen], *, source: str, target: str
) -> list[tuple[str, list[Column]]]:
    """The source's pictures, one a request, and one of each other thing, before and after."""
    from nam.report.grid import Column

    mine: dict[str, Column] = {}
    rest: dict[str, Column] = {}
    for old, new in zip(before, after, strict=True):
        if old.asked.kind != "draw":
            continue
        prompt, noun = old.asked.sample.prompt, old.asked.noun
        column = Column(
            prompt, old.generation.image, new.generation.image, old.generation.text, new.generation.text
        )
        if noun == source:
            mine.setdefault(prompt, column)
        else:
            rest.setdefault(noun, column)
    others = [rest[noun] for noun in sorted(rest, key=lambda noun: noun != target)]
    titles = (
        f"asked for a {source}: {source} \N{RIGHTWARDS ARROW} {target}",
        "asked for anything else: as it was",
    )
    return [(titles[0], list(mine.values())), (titles[1], others)]


def finished_manifest(folder: Path, clock: Clock) -> dict[str, Any]:
    """manifest.json at the end of a run."""
    from nam.store.files import read_json
    from nam.store.provenance import now, peak_memory

    return {
        **read_json(folder / MANIFEST_FILE),
        "status": "finished",
        "finished": now(),
        "seconds": dict(clock.seconds),
        "peak_memory": peak_memory(),
    }


def _print(rows: Sequence[Row], delta: Delta, clock: Clock, files: Sequence[Path], edit: Any) -> None:
    source, target = edit["source"], edit["target"]
    table = Table("held-out prompts", "before", "after", title=escape(f"{source} -> {target}"))
    heading = ""
    for row in rows:
        if row.group != heading:
            table.add_section()
            table.add_row(f"[bold]{escape(heading := row.group)}[/bold]", "", "")
        title = escape(row.title)
        table.add_row(f"[green]{title}[/green]" if row.aimed else title, row.before, row.after)
    Console().print(table)
    seconds = ", ".join(f"{stage} {spent:.1f} s" for stage, spent in clock.seconds.items())
    say(f"{len(delta.neurons)} neurons, l2 norm {delta.norm:.3f}; {seconds}")
    for path in files:
        say(str(path))
