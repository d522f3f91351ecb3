"""A finished edit in the experiment trackers: figures, the grid, the locality matrix, the patch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger
from PIL import Image

from nam.report.edit_figures import Matrix, matrix_figure
from nam.report.tracking import flat, forgiven, log_artifact


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
    for logger in loggers:
        with forgiven(logger):
            logger.log_hyperparams(dict(settings))
            logger.log_metrics(scalars)
            if isinstance(logger, WandbLogger):
                logger.log_image("before_after", [grid])
                logger.log_image("locality", [heat_map(tables["before"], tables["after"])])
                name = f"edit-{patch.parent.name}"
                log_artifact(logger, name, kind="edit", files=[patch], about=scalars)
            logger.save()
            logger.finalize("success")


def heat_map(before: Matrix, after: Matrix) -> Image.Image:
    """`matrix_figure` as a picture."""
    buffer = BytesIO()
    matrix_figure(before, after).savefig(buffer, format="png", dpi=80)
    return Image.open(buffer).convert("RGB")
