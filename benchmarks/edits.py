"""What edits reach and what they cost: python -m benchmarks.edits

Every editor, selection and number of edits on the embedded model, before and after, on held-out prompts. A
row is kept on disk as soon as it is measured: a run that was stopped goes on where it was, and two runs at
once share the rows. Writes editing.md, editing.json and a figure.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from rich.console import Console

from benchmarks.arguments import command_line
from benchmarks.editing import plot, report
from benchmarks.editing.lab import Lab
from benchmarks.editing.measure import kept_rows, row_file, row_of
from benchmarks.editing.plan import METHODS, PAIRS, SECTIONS, Job, Section, plan
from benchmarks.quality.report import circumstances, print_table, summary
from nam.data.edits import ScenePairs
from nam.errors import NamError, nearest
from nam.evaluate.editing import EditPrompts
from nam.folders import weights_folder

_ROOT = Path(__file__).parents[1]
_QUICK_METHODS = ("nam", "act")


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Measure, print and write; returns the rows. An error of the user's ends with one line and code 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    console = Console()
    try:
        lab, jobs, out = _lab(options), _jobs(options), _out(options)
    except NamError as error:
        console.print(str(error), soft_wrap=True, highlight=False, markup=False)
        raise SystemExit(2) from None
    _measure(lab, jobs, console, minutes=options.minutes)
    rows = kept_rows(lab, jobs)
    about = circumstances(
        command=command_line("edits", given),
        weights=lab.folder,
        seeds=[lab.prompts.seed],
        seconds=sum(row["seconds"] for row in rows),
    )
    if rows:
        about["commit"] = ", ".join(dict.fromkeys(row["commit"] for row in rows))
    held = report.write(rows, about, out, planned=len(jobs))
    plot.draw(rows, out / "images" / "editing.png")
    print_table(held, console)
    console.print(summary(held))
    left = len(jobs) - len(rows)
    if left:
        console.print(f"{left} of {len(jobs)} rows are left: run the same again", highlight=False)
    console.print(f"written to {out}/editing.md and editing.json", highlight=False, soft_wrap=True)
    return rows


def _measure(lab: Lab, jobs: Sequence[Job], console: Console, *, minutes: float | None) -> None:
    """Measure what is missing, until the time is up."""
    began = time.monotonic()
    for number, job in enumerate(jobs, start=1):
        if minutes is not None and time.monotonic() - began >= 60 * minutes:
            console.print(f"the time is up: {minutes:g} minutes", highlight=False)
            return
        new = not row_file(lab, job).is_file()
        row = row_of(lab, job)
        if new:
            pairs = ", ".join(f"{source} -> {target}" for source, target in job.pairs[:2])
            what = f"{job.section}: {pairs}, {job.modality}, {job.editor}, {job.kind}, {job.selection}"
            said = row.get("problem") or f"{row['seconds']} s, l2 norm {row['norm']:.2f}"
            console.print(
                f"{number}/{len(jobs)} {what}: {said}", highlight=False, soft_wrap=True, markup=False
            )


def _lab(options: argparse.Namespace) -> Lab:
    cache = Path(options.out, "rows") if options.out else _ROOT / "build" / "editing"
    lab = Lab(folder=weights_folder(options.weights), cache=cache, methods=METHODS)
    if not options.quick:
        return lab
    return replace(
        lab,
        methods=_QUICK_METHODS,
        concepts=("cat", "boat"),
        samples=1,
        steps=2,
        grown=(1, 2),
        prompts=ScenePairs(draw=2, caption=1, others=1, others_caption=0, others_riddle=0),
        held_out=EditPrompts(draw=1, seeds=1, riddles=1, captions=1, others=0),
    )


def _jobs(options: argparse.Namespace) -> list[Job]:
    pairs = PAIRS[:1] if options.quick else PAIRS
    counts = (1, 2) if options.quick else (1, 4, 12)
    if options.quick:
        jobs = plan(pairs=pairs, few=pairs, methods=_QUICK_METHODS, counts=counts)
    else:
        jobs = plan()
    names: tuple[Section, ...] = SECTIONS
    if options.only:
        chosen = [name.strip() for name in options.only.split(",")]
        for name in chosen:
            if name not in get_args(Section):
                raise NamError(f"--only: unknown section {name!r} ({nearest(name, SECTIONS)})")
        names = tuple(name for name in SECTIONS if name in chosen)
    return [job for name in names for job in jobs if job.section == name]


def _out(options: argparse.Namespace) -> Path:
    if options.out:
        return Path(options.out)
    return _ROOT / "build" / "editing" if options.quick or options.only else _ROOT / "docs"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.edits", description=__doc__)
    parser.add_argument("--weights", default="tiny_gill", help="a folder, or one that the package ships")
    parser.add_argument("--quick", action="store_true", help="one pair, few prompts: does everything run?")
    parser.add_argument("--only", metavar="A,B", help=f"sections: {', '.join(SECTIONS)}")
    parser.add_argument("--minutes", type=float, metavar="N", help="begin no row after this time")
    parser.add_argument(
        "--out", help="folder of the results, and of the rows in its rows/ (docs, and build/editing)"
    )
    return parser


if __name__ == "__main__":
    main()
