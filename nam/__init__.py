"""nam: which neurons of a multimodal LLM make it say a word or draw a thing.

Importing the package is light; what is named in `__all__` is imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nam.api import attribute
    from nam.editing import edit
    from nam.errors import NamError
    from nam.mllm.load import load

__version__ = "0.1.0"
__all__ = ["NamError", "__version__", "attribute", "edit", "load"]

_LAZY = {"attribute": "nam.api", "edit": "nam.editing", "load": "nam.mllm.load", "NamError": "nam.errors"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'nam' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
