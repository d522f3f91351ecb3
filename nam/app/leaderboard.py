"""`attribute.py experiment=leaderboard`: every method on the same prompts, held against the truth."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from nam.app.attributor import attributor_of, reductions_of
from nam.app.build import build, build_all
from nam.app.config import check_run_folder, claim_run_folder
from nam.app.leaderboard_checks import (
    MARKDOWN_FILE,
    PROMPTS_FILE,
    TABLE_FILE,
    check_cache,
    check_resumed,
    part_file,
    read_judge,
    refuse_finished,
)
from nam.app.quiet import say
from nam.app.settings import SETTLED
from nam.errors import ConfigError
from nam.store.schema import MANIFEST_FILE

if TYPE_CHECKING:
    from nam.evaluate.judge import Judge
    from nam.evaluate.leaderboard import Bench, Case, Figure, Leaderboard, Row


def run(cfg: DictConfig) -> Path:
    """Measure everything that `cfg.evaluate` names. Returns the path of the report."""
    began = time.perf_counter()
    settings: Leaderboard = build(cfg.evaluate)
    source = build(cfg.data.source)
    from nam.evaluate.leaderboard import split_items, with_region

    check_run_folder(cfg, settled=SETTLED)
    if cfg.resume:
        check_resumed(cfg, settings)
    items = split_items(source, split=settings.split, tuning=settings.tuning, seed=cfg.seed)
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    attributor = attributor_of(cfg, methods=with_region(reductions_of(cfg)))
    if settings.reference not in attributor.methods:
        raise ConfigError(
            f"evaluate.reference={settings.reference} is not among reduction={list(attributor.methods)}"
        )
    for part in settings.parts.values():
        if part is not None:
            part.check(list(attributor.methods))
    judge = read_judge(settings)
    check_cache(settings)
    claim_run_folder(cfg, settled=SETTLED)
    folder = Path(cfg.run_dir)
    manifest = _manifest(cfg, settings, attributor, folder)
    with _progress() as tell:
        bench, errors = _bench(cfg, settings, attributor, items, judge, tell)
        figures = _measured(settings, bench, folder)
    manifest["seconds"] = round(time.perf_counter() - began, 1)
    return _close(cfg, settings, bench, figures, errors, manifest)


def _manifest(cfg: DictConfig, settings: Leaderboard, attributor: Any, folder: Path) -> dict[str, Any]:
    """The manifest, in the run folder from the start on: parts that are measured belong to these weights."""
    from nam.app.attribute import manifest_of
    from nam.store.files import write_json
    from nam.store.provenance import read_manifest, refuse_other_weights

    methods = list(attributor.methods)
    manifest = manifest_of(cfg, attributor.mllm, methods, segmenter=attributor.segmenter)
    path = folder / MANIFEST_FILE
    if path.is_file():
        refuse_other_weights(folder, read_manifest(folder), manifest)
        refuse_finished(cfg, settings)
    write_json(path, manifest)
    return manifest


def _bench(
    cfg: DictConfig,
    settings: Leaderboard,
    attributor: Any,
    items: Sequence[Any],
    judge: Judge | None,
    tell: Any,
) -> tuple[Bench, list[str]]:
    """Answer and score every prompt."""
    from nam.evaluate.leaderboard import Bench, cases_of
    from nam.evaluate.truth_cache import TruthCache, weights_key

    cases: list[Case] = []
    errors: list[str] = []
    advance = tell("answers and scores", len(items))
    for start in range(0, len(items), settings.batch):
        some = items[start : start + settings.batch]
        found, why = cases_of(attributor, some, regions=settings.regions)
        cases += found
        errors += why
        advance(len(some))
    if not cases:
        first = f"; first: {errors[0]}" if errors else ""
        raise ConfigError(f"none of {len(items)} prompts could be attributed{first}")
    cache = TruthCache(
        folder=Path(settings.cache or Path(cfg.run_dir, "truth")), model=weights_key(attributor.mllm)
    )
    bench = Bench(
        attributor=attributor,
        cases=cases,
        truths=settings.truths,
        cache=cache,
        judge=judge,
        regions=settings.regions,
        seed=cfg.seed,
        tell=tell,
    )
    return bench, errors


def _measured(settings: Leaderboard, bench: Bench, folder: Path) -> list[Figure]:
    """The figures of every part; those of a part that is finished are read again."""
    import pandas as pd

    from nam.evaluate.leaderboard import Figure
    from nam.evaluate.leaderboard.table import frame_of
    from nam.store.files import atomic, make_folder

    found: list[Figure] = []
    make_folder(folder / "parts")
    for name, part in settings.parts.items():
        if part is None:
            continue
        path = part_file(folder, name)
        if path.is_file():
            names = [field.name for field in fields(Figure)]
            rows = pd.read_parquet(path)[names].itertuples(index=False)
            found += [Figure(*row) for row in rows]
            continue
        figures = part.measure(bench)
        if figures:
            with atomic(path) as temporary:
                frame_of(figures).to_parquet(temporary, index=False)
        found += figures
    return found


def _close(
    cfg: DictConfig,
    settings: Leaderboard,
    bench: Bench,
    figures: Sequence[Figure],
    errors: Sequence[str],
    manifest: dict[str, Any],
) -> Path:
    """Write the tables, the figure and the report, and print the headlines."""
    from nam.app.paper import report_paper
    from nam.evaluate.leaderboard.published import PaperRun
    from nam.evaluate.leaderboard.settings import HEADLINES
    from nam.evaluate.leaderboard.table import frame_of, leads, summarise
    from nam.report.leaderboard import build_leaderboard_report, write_figure, write_markdown
    from nam.report.tracking import track_leaderboard
    from nam.store.files import atomic, write_json
    from nam.store.provenance import now, peak_memory

    folder = Path(cfg.run_dir)
    notes = {key: note for part in settings.parts.values() if part for key, note in part.notes.items()}
    rows = summarise(figures, seed=cfg.seed, draws=settings.draws, notes=notes)
    measures = [measure for names in HEADLINES.values() for measure in names]
    rows += leads(
        figures, reference=settings.reference, measures=measures, seed=cfg.seed, draws=settings.draws
    )
    for name, table in ((TABLE_FILE, frame_of(rows)), (PROMPTS_FILE, frame_of(list(figures)))):
        with atomic(folder / name) as temporary:
            table.to_parquet(temporary, index=False)
    manifest |= {
        "status": "finished",
        "finished": now(),
        "split": settings.split,
        "cases": {m: len(bench.of(m)) for m in ("text", "image")},
        "errors": list(errors),
        "peak_memory": peak_memory(),
    }
    write_json(folder / MANIFEST_FILE, manifest)
    container: Any = OmegaConf.to_container(cfg, resolve=True)
    if isinstance(settings, PaperRun):
        track_leaderboard(build_all(cfg.logger), frame_of(rows), None, settings=container)
        return report_paper(settings, rows, folder, manifest=manifest)
    write_figure(rows, folder / "leaderboard.png", reference=settings.reference)
    write_markdown(rows, folder / MARKDOWN_FILE, manifest=manifest)
    report = build_leaderboard_report(rows, folder, manifest=manifest, reference=settings.reference)
    track_leaderboard(build_all(cfg.logger), frame_of(rows), folder / "leaderboard.png", settings=container)
    _print(rows, folder, report, errors)
    return report


def _print(rows: Sequence[Row], folder: Path, report: Path, errors: Sequence[str]) -> None:
    from nam.evaluate.leaderboard.settings import HEADLINES
    from nam.evaluate.leaderboard.table import pivot

    console = Console()
    for modality, measures in HEADLINES.items():
        lines = pivot(rows, modality=modality, measures=measures)
        if lines:
            there = [any(cells[i] for _, _, cells in lines) for i in range(len(measures))]
            table = Table(
                "method", "region", *compress(measures, there), title=f"held against ablation: {modality}"
            )
            for method, region, cells in lines:
                # The intervals are in the files: with them no terminal is wide enough.
                table.add_row(method, region, *(one.partition(" ")[0] for one in compress(cells, there)))
            console.print(table)
    if errors:
        say(f"{len(errors)} targets could not be attributed; first: {errors[0]}")
    for path in (folder / TABLE_FILE, folder / MARKDOWN_FILE, report):
        say(str(path))


@contextmanager
def _progress() -> Iterator[Callable[[str, int], Callable[[int], object]]]:
    """Bars for whatever is told."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:

        def tell(what: str, size: int) -> Callable[[int], object]:
            task = bars.add_task(what, total=size)
            return lambda done: bars.advance(task, done)

        yield tell
