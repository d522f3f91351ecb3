"""What an edit leaves: figures before and after, the patch, the grid, and a table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from nam.app.build import build
from nam.clock import Clock

if TYPE_CHECKING:
    from PIL.Image import Image

    from nam.editor.delta import Delta
    from nam.evaluate.editing import Seen
    from nam.evaluate.judge import Judge
    from nam.mllm.base import MLLM

PATCH_FILE, GRID_FILE = "patch.safetensors", "before_after.png"

#: What the table shows: a figure of `nam.evaluate.editing`, and how to say it.
_ROWS = (
    ("drawn", "target drawn when the source is asked for"),
    ("said", "target said when the source is asked for"),
    ("caption_said", "target said of a picture of the source"),
    ("colour_kept", "colour kept in the target's pictures"),
    ("place_kept", "place kept in the target's pictures"),
    ("riddle_said", "riddles about the source: target said"),
    ("riddle_drawn", "riddles about the source: target drawn"),
    ("words_kept", "the source's own words unchanged"),
    ("picture_kept", "the source's own pictures unchanged"),
    ("others_drawn", "other things: same thing drawn"),
    ("others_scene", "other things: same thing, colour, place"),
    ("others_text", "other things: same words"),
    ("others_caption", "other things: same caption"),
    ("others_riddle", "other things: same answer to a riddle"),
    ("others_top1", "other things: same next word (top-1)"),
)


def close(
    cfg: DictConfig, mllm: MLLM, delta: Delta, judge: Judge, loggers: list[Any], clock: Clock
) -> dict[str, Any]:
    """Measure a delta on held-out prompts, save everything, print the table. Returns the figures."""
    from nam.editor.cases import streams_of
    from nam.editor.delta import EditError
    from nam.evaluate.editing import ask, drift, matrix, measure
    from nam.report.editing import track_edit
    from nam.store.files import atomic, write_json

    folder, source, target = Path(cfg.run_dir), cfg.edit.source, cfg.edit.target
    prompts = build(cfg.evaluate)
    asked = prompts.asked(build(cfg.prompts), source)
    with clock("measure"), Console().status("before and after"):
        before = ask(mllm, asked, judge, batch=prompts.batch)
        streams = streams_of(mllm, [one.generation for one in before])
        with delta.applied(mllm):
            after = ask(mllm, asked, judge, batch=prompts.batch)
            moved = drift(mllm, before, streams, source=source)
    figures: dict[str, Any] = {**measure(before, after, source=source, target=target), **moved}
    known = "drawn_before" if cfg.edit.modality != "text" else "said_before"
    if figures[known] == 0:
        raise EditError(f"the model never {known.partition('_')[0]} {source!r} when asked: nothing to edit")
    figures |= {"norm": delta.norm, "neurons": len(delta.neurons), "seconds": dict(clock.seconds)}
    tables = {"before": matrix(before), "after": matrix(after)}
    delta = replace(delta, manifest={**delta.manifest, "figures": figures})
    delta.save(folder / PATCH_FILE)
    grid = grid_of(before, after, source=source, target=target)
    with atomic(folder / GRID_FILE) as temporary:
        grid.save(temporary, format="png")
    write_json(folder / "metrics.json", {**figures, "matrix": tables})
    _print(figures, delta, folder, source=source, target=target)
    settings: Any = OmegaConf.to_container(cfg, resolve=True)
    track_edit(
        loggers, settings=settings, figures=figures, tables=tables, grid=grid, patch=folder / PATCH_FILE
    )
    return figures


def grid_of(before: list[Seen], after: list[Seen], *, source: str, target: str) -> Image:
    """The source's pictures, one a combination, and one of each of some other things, before and after."""
    from nam.report.grid import Column, before_after

    mine: list[Column] = []
    rest: dict[str, Column] = {}
    shown = set()
    for old, new in zip(before, after, strict=True):
        if old.asked.kind != "draw":
            continue
        column = Column(
            old.asked.sample.prompt,
            old.generation.image,
            new.generation.image,
            old.generation.text,
            new.generation.text,
        )
        if old.asked.noun != source:
            rest.setdefault(old.asked.noun, column)
        elif old.asked.sample.prompt not in shown:
            shown.add(old.asked.sample.prompt)
            mine.append(column)
    others = [rest[noun] for noun in sorted(rest, key=lambda noun: noun != target)]
    return before_after([(f"{source} -> {target}", mine), ("everything else", others)])


def _print(figures: dict[str, Any], delta: Delta, folder: Path, *, source: str, target: str) -> None:
    table = Table("held-out prompts", "share", title=f"{source} -> {target}")
    for name, title in _ROWS:
        if figures.get(name) is not None:
            table.add_row(title, f"{figures[name]:.0%}")
    console = Console()
    console.print(table)
    leak = ", ".join(
        f"{where} {figures[f'{where}_kl']:.4f} nats, {figures[f'{where}_img'] or 0:.1%} of the drawing states"
        for where in ("source", "others")
        if figures[f"{where}_kl"] is not None
    )
    console.print(f"moved with the words held: {leak}", highlight=False)
    seconds = ", ".join(f"{stage} {spent:.1f} s" for stage, spent in figures["seconds"].items())
    line = f"{len(delta.neurons)} neurons, l2 norm {delta.norm:.3f}; {seconds}"
    console.print(line, highlight=False)
    for name in (PATCH_FILE, GRID_FILE):
        console.print(str(folder / name), highlight=False, soft_wrap=True)
