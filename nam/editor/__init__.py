"""Editing: which neurons to change, how, and the change itself as a thing that is applied and reverted."""

from nam.editor.composition import compose
from nam.editor.delta import Delta, EditError, difference
from nam.editor.delta_file import read_delta, write_delta

__all__ = ["Delta", "EditError", "compose", "difference", "read_delta", "write_delta"]
