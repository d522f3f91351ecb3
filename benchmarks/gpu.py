"""What attribution takes at full size on a GPU: python -m benchmarks.gpu

GILL's published sizes (OPT-6.7B, CLIP-L, Stable Diffusion 1.5) with random weights in bfloat16, made on the
device: times of generating, replaying, scoring and relevance, tokens a second, peak memory, and what decoding
makes of the device's memory bandwidth, with torch.compile and CUDA graphs beside it. Writes gpu.json and
gpu.md. Without a GPU it says so and ends.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.arguments import command_line, positive
from benchmarks.fullsize.decoding import measure_decoding
from benchmarks.fullsize.shapes import SHAPES, FullShape, build
from benchmarks.fullsize.stages import Bench, measure_once, measure_pictures, measure_words
from benchmarks.fullsize.timing import measure_device
from benchmarks.quality import report
from benchmarks.quality.rows import Row
from nam.errors import ConfigError, NamError
from nam.world.vocabulary import vocabulary

SECTIONS = ("words", "pictures", "decoding")

_ROOT = Path(__file__).parents[1]

NOTES = """\
Weights are random, so answers and pictures mean nothing; their sizes and the code are the real model's. Times
are medians of runs after one that warms up, with their range; of pictures they are those of each picture.
"More at the peak" is memory beyond the model's own, for the whole batch. A step of decoding reads each weight
once: its share of the bandwidth is the bytes of weights a second over what a copy on the same device moves.
"""


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    """Measure, print and write; returns the rows, none without a GPU. A wrong argument ends with code 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    console, began = Console(), time.perf_counter()
    if options.device != "cpu" and not torch.cuda.is_available():
        console.print(
            "nothing is measured: PyTorch sees no GPU here (--device cpu --shape tiny runs the same code)",
            soft_wrap=True,
            highlight=False,
        )
        return []
    try:
        sections = _sections(options.only)
        if options.device == "cpu" and options.shape != "tiny":
            raise ConfigError("--device cpu: this shape fills 16 GB of memory, set --shape tiny")
        rows = _measure(SHAPES[options.shape], options, sections)
    except NamError as error:
        console.print(str(error), soft_wrap=True, highlight=False, markup=False)
        raise SystemExit(2) from None
    about = report.circumstances(
        command=command_line("gpu", given),
        weights=Path("random"),
        seeds=[0],
        seconds=time.perf_counter() - began,
    )
    about |= {"shape": SHAPES[options.shape].name, "precision": options.dtype, **_device(options.device)}
    out = Path(options.out)
    report.write_json(rows, about, out / "gpu.json")
    (out / "gpu.md").write_text(markdown(rows, about), encoding="utf-8")
    report.print_table(rows, console)
    console.print(f"written to {out}/gpu.md and gpu.json", highlight=False, soft_wrap=True)
    return rows


def _measure(shape: FullShape, options: argparse.Namespace, sections: Sequence[str]) -> list[Row]:
    """The rows of every section that is wanted."""
    with tempfile.TemporaryDirectory() as folder:
        dtype = getattr(torch, options.dtype)
        mllm = build(shape, Path(folder), device=options.device, dtype=dtype)
        weights = sum(one.numel() * one.element_size() for one in mllm.language_model.parameters())
        rows, bandwidth = measure_device(mllm.device, weights=weights)
        words = [word for word in vocabulary() if word.isascii() and word.isalpha()]
        bench = Bench(mllm, words, prompt=options.prompt, tokens=options.tokens, runs=options.runs)
        if "words" in sections:
            rows += measure_once(mllm)
            for batch in options.batches:
                rows += measure_words(bench, batch=batch)
        if "pictures" in sections:
            for batch in options.pictures:
                rows += measure_pictures(bench, batch=batch)
        if "decoding" in sections:
            for batch in options.batches:
                rows += measure_decoding(
                    mllm,
                    batch=batch,
                    prompt=options.prompt,
                    tokens=options.tokens,
                    runs=options.runs,
                    bandwidth=bandwidth,
                )
    return rows


def _device(device: str) -> dict[str, Any]:
    """The device's name and memory, and the version of CUDA."""
    if device == "cpu":
        return {"device": "the CPU"}
    found = torch.cuda.get_device_properties(device)
    return {
        "device": found.name,
        "device_memory": f"{found.total_memory / 1e9:.0f} GB",
        "cuda": torch.version.cuda,
    }


def markdown(rows: Sequence[Row], about: dict[str, Any]) -> str:
    """The tables with their circumstances."""
    card = [about["device"], about.get("device_memory"), about.get("cuda") and f"CUDA {about['cuda']}"]
    lines = [
        "# Attribution at full size",
        "",
        f"{about['shape']}, random weights in {about['precision']}, on {', '.join(filter(None, card))}.",
        f"Measured by {report.measured_by(about)}.",
        "",
        NOTES,
        *report.section_tables(rows, interval="range"),
    ]
    return "\n".join(lines)


def _sections(only: str) -> list[str]:
    names = [name for name in only.split(",") if name] or list(SECTIONS)
    for name in names:
        if name not in SECTIONS:
            raise ConfigError(f"--only: {name!r} is none of {', '.join(SECTIONS)}")
    return names


def _numbers(text: str) -> list[int]:
    return [positive(one) for one in text.split(",")]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, or cpu with --shape tiny")
    parser.add_argument("--shape", choices=list(SHAPES), default="gill", help="sizes of the model (gill)")
    parser.add_argument(
        "--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of the weights (bfloat16)"
    )
    parser.add_argument("--only", default="", metavar="A,B", help=f"of {', '.join(SECTIONS)}")
    parser.add_argument(
        "--batches", type=_numbers, default=[1, 16], metavar="1,16", help="rows of words at once"
    )
    parser.add_argument("--pictures", type=_numbers, default=[1, 4], metavar="1,4", help="pictures at once")
    parser.add_argument("--prompt", type=positive, default=32, help="words of a prompt (32)")
    parser.add_argument("--tokens", type=positive, default=32, help="tokens of an answer (32)")
    parser.add_argument("--runs", type=positive, default=5, help="of which medians are taken (5)")
    parser.add_argument("--out", default=str(_ROOT / "build" / "gpu"), help="folder of the results")
    return parser


if __name__ == "__main__":
    main()
