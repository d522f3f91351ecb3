"""What an editor is given, what it may do, and how far it has come.

An editor never writes into a model: it moves `change`, what is added to the chosen value vectors, in steps.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from torch import Tensor

from nam.checks import require_choices, whole
from nam.editor.delta import EditError
from nam.errors import ConfigError
from nam.types import Concept, Generation, NeuronSet

if TYPE_CHECKING:
    from nam.editor.reach import Reached
    from nam.mllm.base import MLLM

#: What an edit changes: the words, the pictures, or both.
EditModality = Literal["text", "image", "both"]

#: What a position is for: the picture is to change there, the word is, or nothing is.
Role = Literal["image", "text", "keep"]

#: In the order of their numbers in `nam.editor.reach.Reached.roles`, which follow.
ROLES: tuple[Role, ...] = ("image", "text", "keep")
IMAGE, TEXT, KEEP = range(len(ROLES))

#: Where no token is to be produced.
NO_TOKEN = -1


@dataclass(frozen=True)
class Goal:
    """Turn one concept into another."""

    source: Concept
    target: Concept
    modality: EditModality = "image"

    def __post_init__(self) -> None:
        if self.source.name.casefold() == self.target.name.casefold():
            raise EditError(f"source and target of an edit are both {self.source.name!r}: set edit.target")
        require_choices(self, "edit", error=EditError)


@dataclass(frozen=True, eq=False, kw_only=True)
class Case:
    """The answer in a finished sequence, and the residual stream that its positions should have.

    Attributes:
        generation: Read teacher-forced, so that what is wanted does not depend on what is said meanwhile.
        positions: Ascending positions, P of them.
        wanted: What should enter the final norm there, (P, H) float32 on the CPU.
        roles: What each position is for, (P,).
        tokens: The token that each position should produce, (P,); NO_TOKEN at [IMG] positions.
    """

    generation: Generation
    positions: tuple[int, ...]
    wanted: Tensor
    roles: tuple[Role, ...]
    tokens: tuple[int, ...]

    @property
    def edited(self) -> bool:
        """Whether any position is to change."""
        return any(role != "keep" for role in self.roles)

    def rows(self, role: Role) -> list[int]:
        """Rows of the positions that have this role."""
        return [row for row, found in enumerate(self.roles) if found == role]


@dataclass(frozen=True, eq=False, kw_only=True)
class Problem:
    """What is to be edited, and what must stay.

    Attributes:
        mllm: The model, frozen.
        goal: What is to become what.
        cases: What is wanted where.
    """

    mllm: MLLM
    goal: Goal
    cases: tuple[Case, ...]

    def __post_init__(self) -> None:
        if not any(case.edited for case in self.cases):
            raise EditError(f"there is nothing to edit: no prompt leads to {self.goal.source.name!r}")


@dataclass(frozen=True, kw_only=True)
class Editor(ABC):
    """A way to edit: a frozen dataclass of its options, in a file and a yaml of its name.

    Attributes:
        name: What tables call it.
        selects: Whether it changes the neurons that were selected; one that does not looks for its own.
        larger: What to set for a larger change, as an error advises.
        smaller: What to set for a smaller one, likewise.
        steps: Most steps.
        tolerance: Stop once at most this share of the squared distance is left.
        probability: ... and the tokens that are to be said have at least this probability, on average.
    """

    name: ClassVar[str]
    selects: ClassVar[bool] = True
    larger: ClassVar[str] = "try another editor"
    smaller: ClassVar[str] = "try another editor"
    steps: int = 20
    tolerance: float = 0.02
    probability: float = 0.9

    def __post_init__(self) -> None:
        whole("editor.steps", self.steps, least=1, error=ConfigError)
        self._refuse_odd("tolerance")
        if not 0 <= self.probability <= 1:
            raise ConfigError(f"editor.probability must be 0 to 1, got {self.probability}")

    def _refuse_odd(self, *names: str, above: bool = False) -> None:
        """Raise ConfigError unless these options are finite, and at least 0 (or above it)."""
        for name in names:
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0 or (above and value == 0):
                least = "above 0" if above else "at least 0"
                raise ConfigError(f"editor.{name} must be {least}, and finite, got {value}")

    def neurons(self, problem: Problem, chosen: NeuronSet) -> NeuronSet:
        """The neurons that this editor changes: those chosen, unless it is about others."""
        return chosen

    def enough(self, reached: dict[str, float]) -> bool:
        """Whether what was achieved suffices; `reached` as `progress` gives it."""
        image, said = reached.get("image_left", 0.0), reached.get("probability", 1.0)
        return image <= self.tolerance and said >= self.probability


@dataclass(frozen=True, kw_only=True)
class Solver(Editor):
    """An editor whose steps are computed, not descended."""

    @abstractmethod
    def propose(
        self, problem: Problem, neurons: NeuronSet, change: Tensor, here: Reached
    ) -> tuple[Tensor, Reached]:
        """The next change (n, H) and what it reaches; the given ones where there is nothing better.

        Args:
            problem: What is edited.
            neurons: Whose value vectors are changed, n of them.
            change: The change so far, (n, H).
            here: What that reaches.
        """


@dataclass(frozen=True, kw_only=True)
class Trained(Editor):
    """An editor whose steps are those of an optimiser.

    Attributes:
        lr: Learning rate of Adam, in units of the value vectors' root mean square.
        batch: Cases of a step; those of the edit and those to keep half and half.
    """

    lr: float = 0.02
    batch: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        self._refuse_odd("lr", above=True)
        whole("editor.batch", self.batch, least=2, error=ConfigError)

    @abstractmethod
    def losses(
        self, problem: Problem, cases: Sequence[Case], hidden: Sequence[Tensor], change: Tensor
    ) -> dict[str, Tensor]:
        """Scalars to log; "loss" is minimised.

        Args:
            problem: What is edited.
            cases: Of this step.
            hidden: The last hidden states at each case's positions, (P, H), with a graph.
            change: (n, H), with a graph.
        """
