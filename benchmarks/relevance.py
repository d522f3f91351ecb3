"""The relevance providers against the full gradient, and against the truth: python -m benchmarks.relevance

For every provider under configs/relevance: the rank correlation of its R with that of `gradient`, how well it
predicts what ablating single neurons does to the drawn region, and what it costs. Writes relevance.json and
relevance.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.arguments import command_line
from benchmarks.providers import SPECS, Bench, measure, providers
from benchmarks.quality import report
from benchmarks.quality.rows import Row, Section, rows_of
from nam.errors import InputError, NamError, nearest
from nam.folders import weights_folder
from nam.world.scene import SPLITS

_ROOT = Path(__file__).parents[1]

NOTES = """\
Correlations are Spearman's, of each picture, and a mean over the pictures with its 95 % interval; those with
the full gradient are over all [IMG] positions and dimensions. Effects are of single neurons, drawn from those
that are active at the [IMG] positions and set to zero there; the picture is drawn again through the whole
sampler with the same noise. The signed effect is the change of the sum of the region's pixels and colours,
predicted by <R, dh> with the signed R; the absolute effect is the sum of absolute changes, predicted by
<R, |dh|> with the unsigned R. `floor` is the same gradient everywhere: its unsigned R is the size of the
hidden states alone, and what the unsigned figures must be held against. A backward pass counts one U-Net
evaluation, since it computes gradients of inputs alone; the next column counts two. Times are of 4 pictures
at once.
"""


def write_markdown(rows: Sequence[Row], about: Mapping[str, Any], path: Path) -> None:
    """One line a provider, one column a figure."""
    settings = (
        f"split {about['split']}, {about['pictures']} pictures, {about['ablations']} ablations a picture, "
        f"seed {about['seeds'][0]}"
    )
    lines = [
        "# Relevance providers",
        "",
        f"Measured by {report.measured_by(about, settings)}.",
        "",
        NOTES,
        f"| provider | {' | '.join(spec.name for spec in SPECS)} |",
        "| --- " * (len(SPECS) + 1) + "|",
    ]
    for name in dict.fromkeys(row.section for row in rows):
        cells = [_cell(row) for row in rows if row.section == name]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")


def _cell(row: Row) -> str:
    if row.measure is None:
        return ""
    interval = f" ({row.interval_text})" if row.measure.n > 1 else ""
    note = f"; {row.measure.note}" if row.measure.note else ""
    return f"{row.value_text}{interval}{note}"


def _table(rows: Sequence[Row]) -> Table:
    table = Table("provider", *(spec.name for spec in SPECS))
    for name in dict.fromkeys(row.section for row in rows):
        table.add_row(name, *(row.value_text for row in rows if row.section == name))
    return table


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    """Measure, print and write; returns the rows. An error of the user's ends with one line and code 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    console, began = Console(), time.perf_counter()
    rows: list[Row] = []
    try:
        bench = Bench(
            weights_folder(options.weights),
            options.count,
            options.ablations,
            options.split,
            options.seed,
            options.runs,
        )
        for name in _chosen(options.only):
            rows += rows_of(Section(name, name, SPECS, lambda _: {}), measure(name, bench))
            console.print(f"{name}: {time.perf_counter() - began:.0f} s", highlight=False)
    except NamError as error:
        console.print(str(error), soft_wrap=True, highlight=False, markup=False)
        raise SystemExit(2) from None
    about = report.circumstances(
        command=command_line("relevance", given),
        weights=bench.folder,
        seeds=[options.seed],
        seconds=time.perf_counter() - began,
    )
    about |= {"split": bench.split, "pictures": len(bench.regions), "ablations": bench.ablations}
    out = Path(options.out)
    report.write_json(rows, about, out / "relevance.json")
    write_markdown(rows, about, out / "relevance.md")
    console.print(_table(rows))
    console.print(f"written to {out}/relevance.md and relevance.json", highlight=False, soft_wrap=True)
    return rows


def _chosen(only: str | None) -> list[str]:
    known = providers()
    names = [name.strip() for name in only.split(",")] if only else known
    for name in names:
        if name not in known:
            raise InputError(f"--only: unknown provider {name!r} ({nearest(name, known)})")
    return names


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.relevance", description=__doc__)
    parser.add_argument("--weights", default="tiny_gill", help="a folder, or one that the package ships")
    parser.add_argument("--count", type=_at_least_two, default=24, help="pictures (24)")
    parser.add_argument("--ablations", type=_at_least_two, default=100, help="neurons a picture (100)")
    parser.add_argument("--split", choices=SPLITS, default="test", help="combinations to draw (test)")
    parser.add_argument("--seed", type=int, default=0, help="of prompts, noise and neurons (0)")
    parser.add_argument("--runs", type=_at_least_two, default=5, help="timed runs (5)")
    parser.add_argument("--only", metavar="A,B", help=f"providers: {', '.join(providers())}")
    parser.add_argument("--out", default=str(_ROOT / "build" / "relevance"), help="folder of the results")
    return parser


def _at_least_two(text: str) -> int:
    number = int(text)
    if number < 2:
        raise argparse.ArgumentTypeError(f"must be at least 2, got {number}")
    return number


if __name__ == "__main__":
    main()
