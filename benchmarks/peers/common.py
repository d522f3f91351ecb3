"""What every peer does: jobs that are timed beside a bare forward pass, and whose scores must be ours.

A peer gives two functions, `read` and `scaled`. A factor of 1 on an activation leaves it as it is: the
gradient by the factor is gradient x activation, factors from 0 to 1 are the line of integrated gradients, and
a factor of 0 is an ablation.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

#: What enters each layer's second FFN linear, (T, d) or (1, T, d), for ids (1, T).
Read = Callable[[Tensor], Sequence[Tensor]]

#: Logits (N, T, V) for ids (N, T) and, by layer, factors (N, d) on what enters its second FFN linear at the
#: last position, or None.
Scaled = Callable[[Tensor, Sequence[Tensor | None]], Tensor]

#: Most that a score may differ from ours, as a share of the largest one.
TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class Task:
    """What is asked.

    Attributes:
        bare: A transformers OPT, frozen: the bare forward pass is its own.
        model: The same once more, for the peer to wrap.
        ids: The prompt, (1, T).
        token: Whose logit is attributed.
        expected: Our scores (L, d), by job.
        steps: Of integrated gradients.
        folder: Where the model was read from.

    """

    bare: Any
    model: Any
    ids: Tensor
    token: int
    expected: dict[str, Tensor]
    steps: int
    folder: Path

    @property
    def blocks(self) -> Sequence[Any]:
        """The bare model's decoder layers."""
        found: Sequence[Any] = self.bare.model.decoder.layers
        return found

    @torch.inference_mode()
    def forward(self) -> Tensor:
        """The bare forward pass: all logits of all positions."""
        logits: Tensor = self.bare(input_ids=self.ids, use_cache=False).logits
        return logits


def scale(given: Tensor, factors: Tensor) -> Tensor:
    """What enters a linear, (N * T, d) or (N, T, d), with its last positions multiplied by factors (N, d)."""
    rows = given.reshape(len(factors), -1, given.shape[-1])
    return torch.cat([rows[:, :-1], rows[:, -1:] * factors[:, None]], dim=1).reshape(given.shape)


def main(name: str, build: Callable[[Task], tuple[Read, Scaled]]) -> None:
    """Time the jobs of a folder that `benchmarks.cost.elsewhere` wrote, and print what was found as JSON.

    A job whose scores differ from ours has no time, but a reason.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.peers.{name}")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cpu-time", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    task = _read_task(options.folder)
    read, scaled = build(task)
    clock = time.process_time if options.cpu_time else time.perf_counter
    jobs: dict[str, tuple[Callable[[], Tensor], int]] = {
        "direct": (lambda: direct(task, read), options.pairs),
        "gradient": (lambda: gradient(task, scaled), options.pairs),
        "ablation": (lambda: ablation(task, scaled), min(options.pairs, 3)),
        "integrated": (lambda: integrated(task, scaled), 1),
    }
    found = {job: _measured(job, run, task, pairs=n, clock=clock) for job, (run, n) in jobs.items()}
    versions = {one: version(one) for one in (name, "torch", "transformers")}
    json.dump({"versions": versions, "jobs": found}, sys.stdout)


def direct(task: Task, read: Read) -> Tensor:
    """Activation times <value vector, unembedding row>."""
    with torch.no_grad():
        row = task.bare.lm_head.weight[task.token]
        read_at = [one.reshape(-1, one.shape[-1])[-1] for one in read(task.ids)]
        both = zip(read_at, task.blocks, strict=True)
        return torch.stack([a * (row @ block.fc2.weight) for a, block in both])


def gradient(task: Task, scaled: Scaled) -> Tensor:
    """Gradient x activation, all layers in one pass."""
    factors = [torch.ones(1, one.fc2.in_features, requires_grad=True) for one in task.blocks]
    logits = scaled(task.ids, factors)
    return torch.cat(torch.autograd.grad(logits[0, -1, task.token], factors))


def integrated(task: Task, scaled: Scaled) -> Tensor:
    """Integrated gradients of one layer after another, all steps in one batch."""
    nodes, weights = np.polynomial.legendre.leggauss(task.steps)
    at, weight = torch.tensor((nodes + 1) / 2).float(), torch.tensor(weights / 2).float()
    layers = []
    for layer, block in enumerate(task.blocks):
        factors = at[:, None].repeat(1, block.fc2.in_features).requires_grad_()
        given = [factors if one == layer else None for one in range(len(task.blocks))]
        logits = scaled(task.ids.expand(task.steps, -1), given)
        (slopes,) = torch.autograd.grad(logits[:, -1, task.token].sum(), factors)
        layers.append((weight[:, None] * slopes).sum(0))
    return torch.stack(layers)


def ablation(task: Task, scaled: Scaled) -> Tensor:
    """Each neuron of the sample set to 0 in a row of its own: one batch of whole prompts."""
    neurons = task.expected["sample"].nonzero()
    width = task.blocks[0].fc2.in_features
    factors: list[Tensor | None] = [None] * len(task.blocks)
    for row, (layer, unit) in enumerate(neurons.tolist()):
        if factors[layer] is None:
            factors[layer] = torch.ones(len(neurons) + 1, width)
        factors[layer][row, unit] = 0
    with torch.no_grad():
        logits = scaled(task.ids.expand(len(neurons) + 1, -1), factors)[:, -1, task.token]
    found = torch.zeros_like(task.expected["ablation"])
    found[tuple(neurons.T)] = logits[-1] - logits[:-1]
    return found


def _read_task(folder: Path) -> Task:
    from transformers import OPTForCausalLM

    about = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    bare, model = (OPTForCausalLM.from_pretrained(folder).eval().requires_grad_(False) for _ in range(2))
    ids = torch.tensor([about["ids"]])
    expected = load_file(folder / "expected.safetensors")
    return Task(bare, model, ids, about["token"], expected, about["steps"], folder)


def _measured(
    job: str, run: Callable[[], Tensor], task: Task, *, pairs: int, clock: Callable[[], float]
) -> dict[str, Any]:
    """Median and range of the ratios to the bare forward pass, in interleaved pairs, or a reason."""
    try:
        ours, theirs = task.expected[job], run().detach()
    except Exception as error:  # one job of a library that fails says nothing about the others
        return {"reason": f"it failed: {type(error).__name__}: {error}"[:200]}
    off = float((ours - theirs).abs().max() / ours.abs().max())
    if not off <= TOLERANCE:
        return {"reason": f"its scores differ from ours by {100 * off:.2g} % of the largest"}
    task.forward()
    ratios = []
    for pair in range(pairs):
        spent: dict[Callable[[], Tensor], float] = {}
        for one in (task.forward, run) if pair % 2 else (run, task.forward):
            began = clock()
            one()
            spent[one] = clock() - began
        ratios.append(spent[run] / spent[task.forward])
    return {"value": statistics.median(ratios), "low": min(ratios), "high": max(ratios), "n": pairs}
