"""Arguments of a wrong type, refused where a call begins, in words of the caller's."""

from __future__ import annotations

import operator
from numbers import Number
from typing import Any

from nam.errors import InputError, NamError


def expect(kind: type, value: Any, what: str, *, error: type[NamError] = InputError) -> None:
    """Refuse a value that is not of that kind.

    Args:
        kind: The class.
        value: What was given.
        what: The argument's name and what it should be.
        error: What to raise.

    Raises:
        InputError, or `error`: it is not.

    >>> expect(str, 3, "concept: expected a word")
    Traceback (most recent call last):
    nam.errors.InputError: concept: expected a word, got 3
    """
    if not isinstance(value, kind):
        raise error(f"{what}, got {_shown(value)}")


def whole(
    name: str, value: Any, *, least: int, most: int | None = None, error: type[NamError] = InputError
) -> int:
    """The value as an int: any integer, NumPy's and torch's too, but no bool.

    Raises:
        InputError, or `error`: it is none, or smaller than `least`, or larger than `most`.

    >>> import numpy as np
    >>> whole("seed", np.int64(3), least=0)
    3
    """
    try:
        number = least - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = least - 1
    if number < least or (most is not None and number > most):
        limits = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise error(f"{name} must be an integer {limits}, got {_shown(value)}")
    return number


def _shown(value: Any) -> str:
    """A number or text itself, the kind of anything else."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    plain = value is None or isinstance(value, Number | str)
    return repr(value)[:80] if plain else type(value).__name__
