"""The quality of the embedded model: python -m benchmarks.tiny_gill

Measures every figure that the model is held to, on unseen combinations and held-out phrasings, and writes
quality.json, quality.md and the figures. A part that is not there yet costs its rows only. With --only, the
other sections' rows stay as the results in --out have them: --only speed --out docs on an idle machine.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.arguments import command_line, positive
from benchmarks.quality import captioning, drawing, figures, knowledge, renders, report, speed
from benchmarks.quality.bench import Bench
from benchmarks.quality.rows import Measure, Row, Section, rows_of
from nam.errors import NamError, nearest
from nam.folders import weights_folder

# Times first: on a laptop, minutes of work would slow them.
SECTIONS: Mapping[str, Section] = {
    section.name: section
    for part in (speed, renders, captioning, knowledge, drawing, figures)
    for section in part.SECTIONS
}
_ROOT = Path(__file__).parents[1]


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    """Measure, print and write; returns the rows. An error of the user's ends with one line and code 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    console = Console()
    try:
        chosen, bench = _chosen(options.only), _bench(options)
    except NamError as error:
        console.print(str(error), soft_wrap=True, highlight=False, markup=False)
        raise SystemExit(2) from None
    began = time.perf_counter()
    path = bench.out / "quality.json"
    old = report.read_json(path) if options.only and path.is_file() else {}
    if old and old["weights"] != bench.folder.name:
        raise SystemExit(f"{path} is about the weights {old['weights']}: name another folder with --out")
    rows = [
        row
        for section in SECTIONS.values()
        for row in (measured(section, bench, console) if section in chosen else _kept(section, old))
    ]
    about = report.circumstances(
        command=command_line("tiny_gill", given),
        weights=bench.folder,
        seeds=bench.seeds,
        seconds=time.perf_counter() - began,
    )
    if old:
        before = {key: value for key, value in old.items() if key not in ("rows", "again")}
        about = before | {"again": [*old.get("again", []), about]}
    report.write_json(rows, about, path)
    report.write_markdown(rows, about, bench.out / "quality.md")
    report.print_table(rows, console)
    console.print(report.summary(rows))
    console.print(f"written to {bench.out}/quality.md and quality.json", highlight=False, soft_wrap=True)
    return rows


def measured(section: Section, bench: Bench, console: Console) -> list[Row]:
    """A section's rows; if a part of the model is missing, they say so."""
    began = time.perf_counter()
    found: Mapping[str, Measure] = {}
    reason = "the model gave nothing to measure"
    try:
        found = section.measure(bench)
    except NamError as error:
        reason = str(error)
        said = f"{section.name}: not measured: {reason}"
        console.print(said, highlight=False, soft_wrap=True, markup=False)
    else:
        console.print(f"{section.name}: {time.perf_counter() - began:.0f} s", highlight=False)
    return rows_of(section, found, reason=reason)


def _kept(section: Section, old: Mapping[str, Any]) -> list[Row]:
    """A section's rows as they were measured before; none if they were not."""
    found = {row["name"]: row for row in old.get("rows", ()) if row["section"] == section.title}
    return [
        Row(section.title, spec, report.measure_of(found[spec.name]), found[spec.name]["note"])
        for spec in section.specs
        if spec.name in found
    ]


def _bench(options: argparse.Namespace) -> Bench:
    partial = options.quick or options.only or options.count
    out = options.out or (_ROOT / "build" / "quality" if partial else _ROOT / "docs")
    bench = Bench(folder=weights_folder(options.weights), out=Path(out))
    if options.quick:
        bench = replace(bench, count=8, runs=2)
    return replace(bench, count=options.count) if options.count else bench


def _chosen(only: str | None) -> list[Section]:
    if not only:
        return list(SECTIONS.values())
    names = [name.strip() for name in only.split(",")]
    for name in names:
        if name not in SECTIONS:
            raise NamError(f"--only: unknown section {name!r} ({nearest(name, SECTIONS)})")
    return [section for name, section in SECTIONS.items() if name in names]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tiny_gill", description=__doc__)
    parser.add_argument("--weights", default="tiny_gill", help="a folder, or one that the package ships")
    parser.add_argument("--quick", action="store_true", help="few pictures: does everything run?")
    parser.add_argument("--count", type=positive, help="pictures drawn per row and seed (100)")
    parser.add_argument("--only", metavar="A,B", help=f"sections: {', '.join(SECTIONS)}")
    parser.add_argument("--out", help="folder of the results (docs; build/quality for a part of them)")
    return parser


if __name__ == "__main__":
    main()
