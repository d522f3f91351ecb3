"""The errors that users may see: each message is one clear line that says what to change."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LISTED = 12


class NamError(Exception):
    """Base of every error that is the user's to mend; the commands print its line and exit with code 2."""

    def __str__(self) -> str:
        return " ".join(super().__str__().split())


class ConfigError(NamError):
    """A configuration that cannot be run: unknown key or option, wrong value, refused target."""


class InputError(NamError):
    """Data that cannot be used: an empty prompt, an unreadable picture, a prompt beyond the context."""


class ModelError(NamError):
    """A model that cannot be used: missing weights, an unexpected layout, a site that does not exist."""


class TargetError(InputError):
    """Nothing to attribute: the concept is not in the answer, cannot be spelled, or was not drawn."""


class ScoreError(NamError):
    """Scores that mean nothing: NaN or infinity in an activation or in a score."""


def first_line(error: Exception) -> str:
    """What another package's error says first; its type where it says nothing.

    >>> first_line(ValueError("\\n  no such file\\ntry again"))
    'no such file'
    """
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def nearest(name: str, choices: Iterable[str]) -> str:
    """A hint for a wrong name: "did you mean 'x'?" when one of `choices` is close, else the choices.

    >>> nearest("colr", ["colour", "place"])
    "did you mean 'colour'?"
    """
    known = sorted(set(choices))
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    if not known:
        return "there is nothing to choose from"
    more = ", ..." if len(known) > _LISTED else ""
    return f"choose from {', '.join(known[:_LISTED])}{more}"
