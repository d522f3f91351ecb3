"""What an edit achieves: the model read under a change, against what is wanted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nam.editor.base import IMAGE, KEEP, ROLES, TEXT, Problem
from nam.editor.columns import Changed
from nam.editor.delta import EditError
from nam.hooks import Recorder
from nam.mllm.drawer import drawer_of
from nam.mllm.norm import read_final_norm
from nam.types import NeuronSet

if TYPE_CHECKING:
    from nam.mllm.base import MLLM

#: Answers that are replayed together where no gradient is needed, and their positions: of each position the
#: activations of every layer with chosen neurons are read. One answer may have more.
REPLAYED, POSITIONS = 64, 2048


@dataclass(frozen=True, eq=False)
class Reached:
    """What the cases' positions give under some change: N positions, in the order of the cases.

    Attributes:
        stream: What enters the final norm, (N, H) float32.
        wanted: What should, likewise.
        scale: What the final norm divides the wanted stream by, (N, 1).
        roles: Of each position, (N,): its place in `nam.editor.base.ROLES`.
        activations: Of the chosen neurons, (N, n).
    """

    stream: Tensor
    wanted: Tensor
    scale: Tensor
    roles: Tensor
    activations: Tensor

    def error(self, role: int) -> Tensor:
        """Squared distance to what is wanted, in units of the norm's scale, mean over positions of a role."""
        away = ((self.wanted - self.stream) / self.scale).square().sum(1)
        chosen = away[self.roles == role]
        return chosen.mean() if len(chosen) else away.new_zeros(())


def reach(problem: Problem, neurons: NeuronSet, change: Tensor) -> Reached:
    """What every case's positions give under a change, by one replay of each sequence; without gradients."""
    norm = read_final_norm(problem.mllm)
    found: list[tuple[Tensor, Tensor]] = []
    chosen = neurons.by_layer()
    for rows in together([case.positions for case in problem.cases]):
        part = problem.cases[rows]
        recorder = Recorder(problem.mllm, where=[case.positions for case in part], layers=list(chosen))
        with torch.no_grad(), Changed(problem.mllm, neurons, change):
            problem.mllm.replay([case.generation for case in part], record=recorder)
        for recorded in recorder.recorded:
            layers = zip(recorded.activations, chosen.values(), strict=True)
            parts = [activations[:, list(units)] for activations, units in layers]
            stream = recorded.stream
            if stream is None:
                raise EditError(f"{problem.mllm.name} has no final norm, whose input an edit aims at")
            found.append((stream, torch.cat(parts, dim=1)))
    stream = torch.cat([one for one, _ in found])
    wanted = torch.cat([case.wanted for case in problem.cases]).to(stream)
    roles = [ROLES.index(role) for case in problem.cases for role in case.roles]
    return Reached(
        stream,
        wanted,
        norm.scale(wanted),
        torch.tensor(roles, device=stream.device),
        torch.cat([one for _, one in found]),
    )


@torch.no_grad()
def progress(problem: Problem, reached: Reached, start: Reached) -> dict[str, float]:
    """How far a change has come.

    Returns:
        `image_left`, `text_left`: share of the squared distance that is left (1 at the start, 0 at the end);
        `drawn_left`: the same of the picture generator's conditioning, where there is one;
        `disturbed`: squared distance of what should stay, over the mean that is to be changed;
        `probability`: of the tokens that are to be said.
    """
    found: dict[str, float] = {}
    for number in (IMAGE, TEXT):
        before = float(start.error(number))
        if before > 0:
            found[f"{ROLES[number]}_left"] = float(reached.error(number)) / before
    drawn = drawn_left(problem, reached, start)
    if drawn is not None:
        found["drawn_left"] = drawn
    edited = start.roles != KEEP
    asked = ((start.wanted - start.stream) / start.scale).square().sum(1)[edited].mean()
    found["disturbed"] = float(reached.error(KEEP) / asked)
    tokens = [case.tokens[row] for case in problem.cases for row in case.rows("text")]
    if tokens:
        logits = logits_of(problem.mllm, reached.stream[reached.roles == TEXT])
        rows = logits.softmax(-1).gather(1, torch.tensor(tokens, device=logits.device)[:, None])
        found["probability"] = float(rows.mean())
    return found


def drawn_left(problem: Problem, reached: Reached, start: Reached) -> float | None:
    """Share of the conditioning's squared distance that is left; None where no picture is to change."""
    mllm, rows = problem.mllm, start.roles == IMAGE
    drawer = drawer_of(mllm)
    if drawer is None or not bool(rows.any()):
        return None
    count = next(len(case.rows("image")) for case in problem.cases if case.rows("image"))
    wanted, now, before = (
        drawer.conditioning(hidden_of(mllm, stream[rows]).unflatten(0, (-1, count))).float()
        for stream in (start.wanted, reached.stream, start.stream)
    )
    return float((now - wanted).square().sum() / (before - wanted).square().sum().clamp(min=1e-12))


def together(positions: Sequence[Sequence[int]]) -> Iterator[slice]:
    """Which answers are replayed together: at most `REPLAYED` with at most `POSITIONS` of these positions."""
    start = count = 0
    for stop, one in enumerate(positions):
        if stop - start == REPLAYED or (count and count + len(one) > POSITIONS):
            yield slice(start, stop)
            start, count = stop, 0
        count += len(one)
    if positions:
        yield slice(start, len(positions))


def hidden_of(mllm: MLLM, stream: Tensor) -> Tensor:
    """Last hidden states (N, H) of what enters the final norm."""
    states, norm = stream.to(mllm.device, mllm.dtype), mllm.final_norm
    normed: Tensor = states if norm is None else norm(states)
    return normed


def logits_of(mllm: MLLM, stream: Tensor) -> Tensor:
    """Logits (N, V) float32 of what enters the final norm (N, H)."""
    return (hidden_of(mllm, stream) @ mllm.unembedding.T).float()
