"""The LightningModule of editing: it runs every editor, one step at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from nam.editor.base import Case, Editor, Problem, Solver, Trained
from nam.editor.columns import Changed, read_columns
from nam.editor.delta import EditError, require_neurons
from nam.editor.reach import Reached, progress, reach
from nam.errors import ConfigError
from nam.types import NeuronSet

#: Steps of training between two looks at what is achieved.
CHECK = 10


class EditingModule(L.LightningModule):
    """Moves `change`, which is added to the chosen value vectors; the model itself is never written.

    A solver's step is taken by plain SGD along (change - proposal) with rate 1, a trained editor's by Adam:
    so both are counted, logged, checkpointed and resumed by the Trainer. A checkpoint holds the change and
    the optimiser's state, nothing of the model. What a step is made of follows from the seed and its number.

    Args:
        problem: What is edited; its model must be on the Trainer's device.
        editor: How.
        neurons: Whose value vectors are changed.
        seed: Of the cases that a training step takes.
    """

    def __init__(self, *, problem: Problem, editor: Editor, neurons: NeuronSet, seed: int = 0) -> None:
        super().__init__()
        if not isinstance(editor, Solver | Trained):
            raise ConfigError(f"editor={editor.name} is neither a Solver nor Trained")
        require_neurons(problem.mllm, neurons)
        self.automatic_optimization = False
        self.problem, self.editor, self.neurons, self.seed = problem, editor, neurons, seed
        original = read_columns(problem.mllm, neurons).float()
        self.change = torch.nn.Parameter(torch.zeros_like(original))
        self.size = float(original.square().mean().sqrt()) or 1.0
        self.reached: dict[str, float] = {}
        self._here: Reached | None = None

    def train_dataloader(self) -> Any:
        """The numbers of the steps: each takes its cases itself."""
        steps: Any = range(self.editor.steps)
        return DataLoader(steps, batch_size=None)

    def configure_optimizers(self) -> Any:
        if isinstance(self.editor, Trained):
            return torch.optim.Adam([self.change], lr=self.editor.lr * self.size)
        return torch.optim.SGD([self.change], lr=1.0)

    def on_fit_start(self) -> None:
        self._start = reach(self.problem, self.neurons, torch.zeros_like(self.change))

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        if isinstance(self.editor, Trained):
            scalars, done = self._train(self.editor), False
        else:
            scalars, done = {}, self._solve(self.editor)
        optimizer.step()
        last = self.global_step >= self.editor.steps
        if isinstance(self.editor, Solver) or self.global_step % CHECK == 0 or last:
            self._look()
        self.log_dict({f"edit/{name}": value for name, value in {**scalars, **self.reached}.items()})
        if done or (self.reached and self.editor.enough(self.reached)):
            self.trainer.should_stop = True

    def _solve(self, editor: Any) -> bool:
        """Propose the next change; whether nothing better was found."""
        change = self.change.detach()
        here = self._here if self._here is not None else reach(self.problem, self.neurons, change)
        there, self._here = editor.propose(self.problem, self.neurons, change, here)
        self.change.grad = change - there
        return bool((there == change).all())

    def _train(self, editor: Trained) -> dict[str, float]:
        cases = self._draw(editor.batch)
        with torch.enable_grad(), Changed(self.problem.mllm, self.neurons, self.change):
            replayed = self.problem.mllm.replay([case.generation for case in cases])
            hidden = [
                replayed.hidden[row, [replayed.offsets[row] + position for position in case.positions]]
                for row, case in enumerate(cases)
            ]
            losses = editor.losses(self.problem, cases, hidden, self.change)
        if not bool(losses["loss"].isfinite()):
            raise EditError(
                f"the loss is not finite at step {self.global_step}: lower editor.lr, or load the model in "
                "bfloat16 or float32 instead of float16 (mllm.dtype)"
            )
        self.manual_backward(losses["loss"])
        return {name: float(value.detach()) for name, value in losses.items()}

    def _draw(self, count: int) -> Sequence[Case]:
        """Cases of this step: half of them edited ones, half ones to keep."""
        rng = np.random.default_rng([self.seed, self.global_step])
        found: list[Case] = []
        for edited in (True, False):
            pool = [case for case in self.problem.cases if case.edited is edited]
            size = min(len(pool), max(1, count // 2))
            found += [pool[i] for i in rng.choice(len(pool), size=size, replace=False)] if pool else []
        return found

    def _look(self) -> None:
        change = self.change.detach()
        here = self._here if isinstance(self.editor, Solver) else None
        here = here if here is not None else reach(self.problem, self.neurons, change)
        self.reached = {**progress(self.problem, here, self._start), "norm": float(change.norm())}
        wrong = [name for name, value in self.reached.items() if not math.isfinite(value)]
        if wrong:
            raise EditError(
                f"{', '.join(wrong)} not finite at step {self.global_step}: {self.editor.smaller}"
            )

    @property
    def found(self) -> Tensor:
        """The change so far, (n, H) on the CPU."""
        return self.change.detach().cpu()
