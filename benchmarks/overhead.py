"""What attribution costs over a bare forward pass: python -m benchmarks.overhead

A random model of OPT-125M's shape, a prompt of 32 tokens, scores of all 36,864 neurons: each method from the
prompt to its scores, beside plain PyTorch hooks, captum, and the peers of `make peers` on the same job. Then
every token of an answer, recorded while it is generated, the embedded model's own jobs, and what a second
process adds. Figures are ratios of times in the same process, medians of interleaved pairs. Writes
overhead.json and overhead.md.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from benchmarks.arguments import command_line, positive
from benchmarks.cost import answers, elsewhere, embedded, scaling
from benchmarks.cost.beside import beside
from benchmarks.cost.by_hand import peer_jobs
from benchmarks.cost.jobs import Job, our_jobs
from benchmarks.cost.pairs import Clock, measure, peak_memory, wall
from benchmarks.cost.shape import Case, Shape
from benchmarks.quality import report
from benchmarks.quality.rows import Measure, Row, Spec
from nam.errors import ConfigError, NamError, nearest
from nam.folders import weights_folder
from nam.reduction.vocabulary import first_tokens

#: glibc gives large blocks back at once and takes them anew, which slows large batches down.
ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "17179869184"}

FORWARD = "Time over a bare forward pass (all logits)"
SAME = "Time over a forward pass with the same logits"
MEMORY = "Peak memory beyond the model's own"
ONCE = "Once for a model, then kept"

#: Most time of a method of one forward pass, over one that computes the same logits.
SAME_TARGET = 1.10

#: Most memory of a method of one pass, in percent of the model's.
MEMORY_TARGET = 5.0

_ROOT = Path(__file__).parents[1]


#: What `--only` may name beside jobs.
SECTIONS = ("answers", "embedded", "peers", "scaling")


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        pairs: Of each job; of jobs that run the model many times three at most.
        only: Parts of labels and of `SECTIONS`; what holds none of them is left out. Empty for all.
        threads: Of this process and of the peers'.
        cpu_time: Whether CPU time is measured instead of wall time.
        weights: The embedded model's folder, or its name.
    """

    pairs: int = 15
    only: tuple[str, ...] = ()
    threads: int = 1
    cpu_time: bool = False
    weights: str = "tiny_gill"

    @property
    def clock(self) -> Clock:
        """What time is measured by."""
        return time.process_time if self.cpu_time else wall

    def wants(self, name: str) -> bool:
        """Whether a job or a section is measured."""
        return not self.only or any(part in name for part in self.only)

    def jobs(self, case: Case) -> list[Job]:
        """The jobs to measure.

        Raises:
            ConfigError: `only` names nothing at all.
        """
        known = [*our_jobs(case), *peer_jobs(case)]
        chosen = [job for job in known if self.wants(job.label)]
        if not chosen and not any(map(self.wants, SECTIONS)):
            hint = nearest(self.only[0], [*(job.name for job in known), *SECTIONS])
            raise ConfigError(f"--only: no job has such a name ({hint})")
        return chosen


def main(arguments: Sequence[str] | None = None, *, shape: Shape | None = None) -> list[Row]:
    """Measure, print and write; returns the rows. An error of the user's ends with one line and code 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    torch.set_num_threads(options.threads)
    only = tuple(filter(None, options.only.split(",")))
    plan = Plan(options.pairs, only, options.threads, options.cpu_time, options.weights)
    console, began = Console(), time.perf_counter()
    try:
        if options.device != "cpu" and not torch.cuda.is_available():
            raise ConfigError(f"--device {options.device}: PyTorch sees no GPU here")
        case = Case(shape or Shape(), device=options.device)
        rows = measure_all(case, plan)
    except NamError as error:
        console.print(str(error), soft_wrap=True, highlight=False, markup=False)
        raise SystemExit(2) from None
    about = report.circumstances(
        command=command_line("overhead", given),
        weights=Path("random"),
        seeds=[case.shape.seed],
        seconds=time.perf_counter() - began,
    )
    about["clock"] = f"{'CPU' if options.cpu_time else 'wall'} time, threads: {options.threads}"
    out = Path(options.out or _ROOT / "build" / "overhead")
    report.write_json(rows, about, out / "overhead.json")
    (out / "overhead.md").write_text(markdown(rows, about), encoding="utf-8")
    report.print_table(rows, console)
    console.print(report.summary(rows))
    console.print(f"written to {out}/overhead.md and overhead.json", highlight=False, soft_wrap=True)
    return rows


def measure_all(case: Case, plan: Plan) -> list[Row]:
    """What is computed once for a model, then each job's time and memory."""
    jobs, rows = plan.jobs(case), []
    if jobs:
        began = time.perf_counter()
        first_tokens(case.mllm, norm="ignore", end="top")
        spec = Spec("once", "the argmax of eq. 7 for every neuron", unit="s")
        rows.append(Row(ONCE, spec, Measure(time.perf_counter() - began)))
    weights = sum(one.numel() * one.element_size() for one in case.mllm.language_model.parameters())
    found: dict[str, list[Row]] = {FORWARD: [], SAME: [], MEMORY: []}
    for job in track(jobs, description="measuring"):
        ratios = measure(
            job.run,
            forward=case.forward,
            same_logits=partial(case.same_logits, job.count),
            pairs=min(plan.pairs, 3) if job.slow else plan.pairs,
            clock=plan.clock,
        )
        same_target = SAME_TARGET if job.direct and job.count == 1 else None
        found[FORWARD].append(_row(FORWARD, job, ratios.forward, job.target))
        found[SAME].append(_row(SAME, job, ratios.same_logits, same_target))
        held = peak_memory(job.run)
        memory = None if held is None else Measure(100 * held / weights, note=f"{held / 1e6:.1f} MB")
        target = MEMORY_TARGET if job.one_pass and job.count == 1 else None
        found[MEMORY].append(_row(MEMORY, job, memory, target, unit="%"))
    rows += [row for section in found.values() for row in section]
    if plan.wants("answers"):
        rows += answers.measure_answers(case.shape, device=case.device, pairs=plan.pairs, clock=plan.clock)
    if plan.wants("embedded"):
        folder = weights_folder(plan.weights)
        rows += embedded.measure_embedded(folder, pairs=plan.pairs, clock=plan.clock)
    if plan.wants("peers"):
        rows += elsewhere.measure_peers(case, pairs=plan.pairs, threads=plan.threads, cpu_time=plan.cpu_time)
    if plan.wants("scaling"):
        processes, weights = min(2, os.cpu_count() or 1), plan.weights
        rows += scaling.measure_scaling(processes=processes, pairs=min(plan.pairs, 3), weights=weights)
    return rows


def _row(section: str, job: Job, value: Measure | None, target: float | None, *, unit: str = "x") -> Row:
    spec = Spec(job.label, job.label, target, unit=unit, at_least=False)
    return Row(section, spec, value, "" if value else "this system cannot tell")


def markdown(rows: Sequence[Row], about: dict[str, Any]) -> str:
    """The tables with their circumstances."""
    lines = [
        "# The cost of attribution",
        "",
        f"Measured by {report.measured_by(about, about['clock'])}.",
        "",
        "A random language model of OPT-125M's shape, a prompt of 32 tokens, scores of all 36,864 neurons "
        "for the next token (or 64 different ones): from the prompt to the scores. Times are medians and "
        "ranges of interleaved pairs. Where PyTorch's own products leave a CPU's AVX-512 unused, part of "
        "what `ig`, `ablation` and many targets at once gain is oneDNN's, which this project calls there.",
        "",
        *beside(rows, section=FORWARD),
        report.summary(rows),
        "",
        *report.section_tables(rows, interval="range"),
    ]
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__)
    parser.add_argument("--pairs", type=positive, default=15, help="interleaved pairs of each job (15)")
    parser.add_argument("--threads", type=positive, default=os.cpu_count() or 1, help="all cores by default")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument(
        "--only",
        default="",
        metavar="A,B",
        help=f"jobs whose names hold one of these words, or {', '.join(SECTIONS)}",
    )
    parser.add_argument("--weights", default="tiny_gill", help="the embedded model: a folder, or its name")
    parser.add_argument("--out", help="folder of the results (build/overhead)")
    parser.add_argument(
        "--cpu-time", action="store_true", help="CPU time instead of wall time, for a machine with other load"
    )
    return parser


if __name__ == "__main__":
    if any(os.environ.get(name) != value for name, value in ALLOCATOR.items()):
        environment = {**os.environ, **ALLOCATOR}
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.overhead", *sys.argv[1:]], environment)
    main()
