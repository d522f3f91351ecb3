"""Running a batch so that one bad sample does not take the others with it."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from typing import TypeVar

from nam.errors import ConfigError, ModelError, NamError

log = logging.getLogger(__name__)

#: Errors that concern every sample alike: they end a run.
FATAL = (ConfigError, ModelError)

T = TypeVar("T")


def halve(run: Callable[[list[T]], None], things: Sequence[T], blame: Callable[[T, str], None]) -> None:
    """Run on all things at once; where that fails, on each half, down to the one thing to blame.

    Out of memory thus means smaller batches. Raises errors that concern every sample (`FATAL`).
    """
    if not things:
        return
    try:
        run(list(things))
    except FATAL:
        raise
    except Exception as error:
        if len(things) == 1:
            blame(things[0], reason(error))
            if not isinstance(error, NamError):
                log.warning("a sample failed: %s", reason(error), exc_info=error)
            return
        failed = True
    else:
        failed = False
    if failed:  # outside the handler, which keeps the failed batch's tensors alive
        half = len(things) // 2
        halve(run, things[:half], blame)
        halve(run, things[half:], blame)


def reason(error: Exception) -> str:
    """One line for a table: the message of our own errors, type and first line of any other."""
    if isinstance(error, NamError):
        return re.sub(r"^target \d+: ", "", str(error))
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {line}"[:300]
