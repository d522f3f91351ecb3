"""Peers that need an environment of their own: each does the jobs in a process of its interpreter."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks.cost.by_hand import STEPS, hooks_ablation, sample
from benchmarks.cost.jobs import attribution
from benchmarks.cost.shape import Case
from benchmarks.quality.rows import Measure, Row, Spec
from nam.mllm.parts import quiet_hub
from nam.options import option

SECTION = "Peers: time over a bare forward pass (all logits)"

#: Peers, and what `make peers` makes for each of them.
PEERS = ("transformer_lens", "nnsight", "pyvene")

JOBS = {
    "direct": "direct contribution",
    "gradient": "gradient x activation",
    "integrated": f"integrated gradients, {STEPS} steps a layer",
    "ablation": "ablation of 64 neurons",
}

_ROOT = Path(__file__).parents[2]


def measure_peers(
    case: Case, *, pairs: int, threads: int, cpu_time: bool, root: Path = _ROOT
) -> Iterator[Row]:
    """A row for each peer and job; what is not installed, or fails, says so instead of a time."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        there = [peer for peer in PEERS if interpreter(peer, root).is_file()]
        if there:
            write_task(case, folder)
        for peer in PEERS:
            found: Mapping[str, Any] = {"reason": "not installed: make peers"}
            if peer in there:
                flags = ["--pairs", str(pairs), "--threads", str(threads), *["--cpu-time"] * cpu_time]
                found = run_peer(peer, folder, flags, root=root)
            yield from _rows(peer, found)


def interpreter(peer: str, root: Path = _ROOT) -> Path:
    """Where `make peers` puts a peer's Python."""
    return root / "build" / "peers" / peer / "bin" / "python"


def run_peer(peer: str, folder: Path, flags: list[str], *, root: Path = _ROOT) -> dict[str, Any]:
    """What a peer's process prints, or under "reason" why there is nothing."""
    command = [str(interpreter(peer, root)), "-m", f"benchmarks.peers.{peer}", str(folder), *flags]
    offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        command, cwd=_ROOT, env={**os.environ, **offline}, capture_output=True, text=True, check=False
    )
    last = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not last:
        said = (done.stderr or done.stdout).strip().splitlines() or [f"it ended with {done.returncode}"]
        return {"reason": f"it failed: {said[-1][:200]}"}
    found: dict[str, Any] = json.loads(last[-1])
    return found


def write_task(case: Case, folder: Path) -> None:
    """The model, the prompt, and our scores of the first token for each job."""
    with quiet_hub():
        case.mllm.language_model.save_pretrained(folder)
    about = {"ids": case.prompt, "token": case.tokens[0], "steps": STEPS}
    (folder / "task.json").write_text(json.dumps(about), encoding="utf-8")
    mask = torch.zeros(case.shape.layers, case.shape.ffn)
    mask[tuple(sample(case).T)] = 1
    found = {
        "direct": attribution(case, option("reduction", "acu"), 1)()[0],
        "gradient": attribution(case, option("reduction", "gradxact"), 1)()[0],
        "integrated": attribution(case, option("reduction", "ig", steps=STEPS), 1)()[0],
        "ablation": hooks_ablation(case)[0],
        "sample": mask,
    }
    save_file({name: one.contiguous().cpu() for name, one in found.items()}, folder / "expected.safetensors")


def _rows(peer: str, found: Mapping[str, Any]) -> Iterator[Row]:
    versions = found.get("versions", {})
    note = ", ".join(f"{name} {number}" for name, number in versions.items())
    for job, words in JOBS.items():
        one = found.get("jobs", {}).get(job, found)
        label = f"{peer}: {words}"
        measure = None
        if "value" in one:
            measure = Measure(one["value"], one["low"], one["high"], one["n"], note=note)
        spec = Spec(label, label, unit="x", at_least=False)
        yield Row(SECTION, spec, measure, one.get("reason", ""))
