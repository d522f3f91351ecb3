"""What a leaderboard is asked to measure, as configs/evaluate/leaderboard.yaml explains it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nam.checks import whole
from nam.errors import ConfigError
from nam.evaluate.leaderboard.base import Part
from nam.evaluate.leaderboard.cases import REGIONS, Split
from nam.evaluate.leaderboard.truth import Truths

#: What the figure and the console show of each modality, and by which a reference's lead is measured.
HEADLINES: Mapping[str, Sequence[str]] = {
    "text": ("spearman[logit]", "recall@50[logit]", "pearson[logit]"),
    "image": (
        "spearman[pixels]",
        "recall@50[pixels]",
        "pearson[pixels]",
        "spearman[proxy_pixels]",
        "recall@50[proxy_pixels]",
        "pearson[proxy_pixels]",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Leaderboard:
    """The settings of a leaderboard.

    Attributes:
        truths: How the truth is found.
        parts: What is measured, by name; a part that is None is left out.
        split: Which prompts are reported on.
        tuning: Share of each concept's prompts that methods may be tuned on.
        regions: Which regions pictures are scored with; "mask" always.
        reference: The method whose lead over every other one is reported.
        judge: A weights folder with the classifier that judges pictures; None to do without.
        cache: A folder for the truth; None for the run folder's own.
        batch: Prompts that are answered and attributed together.
        draws: Bootstrap resamples.

    Raises:
        ConfigError: a region that there is not, no part, or a number below 1.
    """

    truths: Truths
    parts: Mapping[str, Part | None]
    split: Split = "held_out"
    tuning: float = 0.4
    regions: Sequence[str] = REGIONS
    reference: str = "nam_total"
    judge: str | None = "tiny_gill"
    cache: str | None = None
    batch: int = 8
    draws: int = 2000

    def __post_init__(self) -> None:
        unknown = [region for region in self.regions if region not in REGIONS]
        if unknown:
            raise ConfigError(f"evaluate.regions may hold {', '.join(REGIONS)}; got {unknown[0]!r}")
        if not any(self.parts.values()):
            raise ConfigError("evaluate.parts is empty: name at least one part")
        for name in ("batch", "draws"):
            whole(f"evaluate.{name}", getattr(self, name), least=1, error=ConfigError)
