"""Every method on the same prompts, held against the truth: what `experiment=leaderboard` measures."""

from nam.evaluate.leaderboard.base import Bench, Part
from nam.evaluate.leaderboard.cases import Case, cases_of, split_items, with_region
from nam.evaluate.leaderboard.settings import Leaderboard
from nam.evaluate.leaderboard.table import Figure, Row
from nam.evaluate.leaderboard.truth import Truths

__all__ = [
    "Bench",
    "Case",
    "Figure",
    "Leaderboard",
    "Part",
    "Row",
    "Truths",
    "cases_of",
    "split_items",
    "with_region",
]
