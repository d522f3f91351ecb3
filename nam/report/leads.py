"""Which neurons lead many concepts, and so say little about any one of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nam.report.views import ConceptView

#: Fewest concepts that are many.
MANY = 3


@dataclass(frozen=True)
class Leads:
    """How many concepts each neuron leads by one method: stands in their table of T- or of I-neurons.

    Attributes:
        counts: By the neuron's name.
        concepts: All that the method has tables of.
    """

    counts: Mapping[str, int]
    concepts: int

    @property
    def telling(self) -> bool:
        """Whether there are concepts enough to tell a neuron of many from one of its own."""
        return self.concepts >= MANY

    @property
    def any_common(self) -> bool:
        """Whether there is such a neuron."""
        return any(map(self.common, self.counts))

    def common(self, name: str) -> bool:
        """Whether the neuron leads at least half of the concepts, and at least three."""
        return self.counts.get(name, 0) >= max(MANY, self.concepts / 2)


def leads_of(views: Sequence[ConceptView]) -> Leads:
    """What the neurons in one method's tables of all concepts have in common."""
    tables = (
        {row.name for rows in (view.text, view.image, *(one.rows for one in view.others)) for row in rows}
        for view in views
    )
    return Leads(Counter(name for names in tables for name in names), len(views))
