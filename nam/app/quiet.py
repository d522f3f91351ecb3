"""Keeping advertisements and remarks of the libraries off the terminal."""

from __future__ import annotations

import logging
import warnings

_REMARKS = (
    "The number of training batches",
    "Total length of `list`",
    "Total length of `DataLoader`",
    "Checkpoint directory",
    "Found .* in eval",
    "Lightning couldn't infer the indices",
    ".*num_workers",
)


def hush() -> None:
    """Silence loading reports, Lightning's tips, and remarks about what is meant to be so."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    for remark in _REMARKS:
        warnings.filterwarnings("ignore", message=remark)
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec", category=FutureWarning)
