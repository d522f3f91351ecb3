"""What is told, and where: no advertisements and remarks of the libraries, a log for each process."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

from rich.console import Console

_REMARKS = (
    "The number of training batches",
    "Total length of `list`",
    "Total length of `DataLoader`",
    "Checkpoint directory",
    "Found .* in eval",
    "Lightning couldn't infer the indices",
    ".*num_workers",
)


def say(line: str, *, error: bool = False) -> None:
    """Print a line as it is, however long it is and whatever brackets a path in it has.

    Args:
        line: The line.
        error: Print it where errors go.
    """
    Console(stderr=error).print(line, markup=False, highlight=False, soft_wrap=True)


def log_apart(rank: int) -> None:
    """Have a process other than the first log into a file of its own, made once there is something to tell.

    Args:
        rank: Of this process.
    """
    for handler in logging.getLogger().handlers if rank else ():
        if isinstance(handler, logging.FileHandler):
            handler.close()  # it opens the file that it then names at its next line
            path = Path(handler.baseFilename)
            handler.baseFilename = str(path.with_name(f"{path.stem}-{rank}{path.suffix}"))


def hush() -> None:
    """Silence loading reports, Lightning's tips, and remarks about what is meant to be so."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # what W&B cannot tell of itself
    for remark in _REMARKS:
        warnings.filterwarnings("ignore", message=remark)
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec", category=FutureWarning)
