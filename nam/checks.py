"""Arguments of a wrong type, refused where a call begins, in words of the caller's."""

from __future__ import annotations

import dataclasses
import inspect
import operator
import types
import typing
from collections.abc import Callable, Sequence
from numbers import Number
from typing import Any

from nam.errors import ConfigError, InputError, NamError

#: Kinds of plain values, and of hints for several of them.
SCALARS = (bool, int, float, str, type(None))
LISTS = (list, tuple, Sequence)


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


def require_choices(options: object, where: str, *, error: type[NamError] = ConfigError) -> None:
    """Refuse a dataclass with a value that is none of its field's choices: fields that are typed `Literal`.

    Args:
        options: The dataclass.
        where: What stands in front of the field's name in the message, such as "reduction.nam".
        error: What to raise.

    Raises:
        ConfigError, or `error`: a value is none.
    """
    for name, hint in _choices(type(options)).items():
        if not conforms(value := getattr(options, name), hint):
            raise error(f"{where}.{name} must be {in_words(hint)}, got {value!r}")


def conforms(value: Any, hint: Any) -> bool:
    """Whether a plain value may be given where `hint` is asked; hints beyond scalars and sequences pass."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(conforms(value, arg) for arg in args)
    if origin is typing.Literal:
        return any(type(value) is type(arg) and value == arg for arg in args)
    if hint in (None, type(None)):
        return value is None
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (bool, str):
        return isinstance(value, hint)
    if origin in LISTS:
        return isinstance(value, (list, tuple)) or not isinstance(value, SCALARS)
    return True


def in_words(hint: Any) -> str:
    """A hint as a message names it.

    >>> in_words(typing.Literal["forms", "token", "none"])
    "'forms', 'token' or 'none'"
    """
    *others, last = dict.fromkeys(_names(hint))
    return f"{', '.join(others)} or {last}" if others else last


def hints_of(target: Callable[..., Any]) -> dict[str, Any]:
    """The hints of a call's arguments; none where one of them cannot be resolved here."""
    function: Any = target
    # A dataclass takes fields of bases in other modules, whose names only the class itself can resolve.
    if isinstance(target, type) and not dataclasses.is_dataclass(target):
        function = target.__init__  # type: ignore[misc]
    try:
        return typing.get_type_hints(inspect.unwrap(function))
    except (NameError, TypeError, AttributeError):
        return {}


def _choices(kind: type) -> dict[str, Any]:
    hints = hints_of(kind)
    named = {field.name: hints[field.name] for field in dataclasses.fields(kind) if field.name in hints}
    return {
        name: hint
        for name, hint in named.items()
        if any(typing.get_origin(one) is typing.Literal for one in (hint, *typing.get_args(hint)))
    }


def _names(hint: Any) -> list[str]:
    if typing.get_origin(hint) is typing.Literal:
        return [repr(arg) for arg in typing.get_args(hint)]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [name for arg in typing.get_args(hint) for name in _names(arg)]
    return ["null" if hint in (None, type(None)) else getattr(hint, "__name__", str(hint))]


def _shown(value: Any) -> str:
    """A number or text itself, the kind of anything else."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    plain = value is None or isinstance(value, Number | str)
    return repr(value)[:80] if plain else type(value).__name__
