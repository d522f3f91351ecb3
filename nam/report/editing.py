"""A finished edit in the experiment trackers: figures, the grid, the locality matrix, the patch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger
from PIL import Image

from nam.report.edit_figures import Matrix, matrix_figure
from nam.report.tracking import flat, log_artifact, send


def track_edit(
    loggers: Sequence[Logger],
    *,
    settings: Mapping[str, Any],
    figures: Mapping[str, Any],
    tables: Mapping[str, Matrix],
    grid: Image.Image,
    patch: Path,
) -> None:
    """Send an edit to every logger; one that fails is left with a warning, since the run folder holds it all.

    Args:
        loggers: Of Lightning.
        settings: The resolved configuration.
        figures: What was measured.
        tables: What was drawn where each thing was asked for, "before" and "after".
        grid: Pictures before and after.
        patch: The saved delta.
    """
    scalars = dict(flat(figures))

    def to_wandb(logger: WandbLogger) -> None:
        logger.log_image("before_after", [grid])
        logger.log_image("locality", [heat_map(tables["before"], tables["after"])])
        log_artifact(logger, f"edit-{patch.parent.name}", kind="edit", files=[patch], about=scalars)

    send(loggers, settings, scalars, to_wandb)


def heat_map(before: Matrix, after: Matrix) -> Image.Image:
    """`matrix_figure` as a picture."""
    buffer = BytesIO()
    matrix_figure(before, after).savefig(buffer, format="png", dpi=80)
    return Image.open(buffer).convert("RGB")
