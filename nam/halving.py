"""Running a batch so that neither one bad sample nor too little memory takes all of it."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from nam.errors import ConfigError, ModelError, NamError, first_line

log = logging.getLogger(__name__)

#: Errors that concern every sample alike: they end a run.
FATAL = (ConfigError, ModelError)

#: Of an accelerator's errors, those after which every later call in the process fails too.
LOST = re.compile(
    "device-side assert|illegal memory access|launch failure|uncorrectable|misaligned address|device.* lost"
)

T = TypeVar("T")


@dataclass
class Limit:
    """The most things that are run on at once, lowered each time that they were too many for the memory.

    Attributes:
        stage: What runs, for the warning.
        most: None as long as everything has fitted.
    """

    stage: str
    most: int | None = None

    def lower(self, size: int) -> None:
        """Note that this many did not fit."""
        if size > 1 and (self.most is None or self.most > size // 2):
            self.most = size // 2
            log.warning(
                "out of memory in stage '%s' with %d at once: going on with %d; a smaller data.batch_size "
                "saves the attempts",
                self.stage,
                size,
                self.most,
            )


def halve(
    run: Callable[[list[T]], None],
    things: Sequence[T],
    blame: Callable[[T, str], None],
    limit: Limit | None = None,
) -> None:
    """Run on all things at once; where that fails, on each half, down to the one thing to blame.

    Out of memory thus means smaller batches, in later calls with the same `limit` from the start. Raises
    errors that concern every sample (`FATAL`), and ModelError where the accelerator is lost: no sample is to
    blame for that, nor would the next one fare better.
    """
    if not things:
        return
    limit = limit or Limit(getattr(run, "__name__", "batch").strip("_"))
    if limit.most is not None and len(things) > limit.most:
        _halves(run, things, blame, limit)
        return
    try:
        run(list(things))
    except FATAL:
        raise
    except Exception as error:
        if isinstance(error, RuntimeError) and LOST.search(str(error)):
            raise ModelError(
                f"the accelerator is lost ({reason(error)}): what was finished is kept; go on with resume="
            ) from error
        full = out_of_memory(error)
        if full:
            limit.lower(len(things))
        if len(things) == 1:
            blame(things[0], reason(error))
            if not isinstance(error, NamError):
                log.warning("a sample failed: %s", reason(error), exc_info=error)
            return
        failed = True
    else:
        full = failed = False
    if failed:  # outside the handler, which keeps the failed batch's tensors alive
        if full:
            _give_back()
        _halves(run, things, blame, limit)


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory, the device's or the machine's, is full."""
    import torch

    full = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return full or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))


def reason(error: Exception) -> str:
    """One line for a table: the message of our own errors, type and first line of any other."""
    if isinstance(error, NamError):
        return str(error)
    return f"{type(error).__name__}: {first_line(error)}"[:300]


def _halves(
    run: Callable[[list[T]], None], things: Sequence[T], blame: Callable[[T, str], None], limit: Limit
) -> None:
    half = len(things) // 2
    halve(run, things[:half], blame, limit)
    halve(run, things[half:], blame, limit)


def _give_back() -> None:
    """Let go of the device's memory that is kept in pieces of the failed batch's sizes."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
