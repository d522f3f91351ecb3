"""Arguments that the benchmarks share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def positive(text: str) -> int:
    """An integer of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def command_line(module: str, given: Sequence[str]) -> str:
    """What one types to measure the same again; a folder elsewhere by its name alone."""
    return " ".join([f"python -m benchmarks.{module}", *map(_shown, given)])


def _shown(word: str) -> str:
    option, equals, value = word.rpartition("=")
    return f"{option}{equals}{Path(value).name}" if Path(value).is_absolute() else word
