"""pykdext: the driver behind a Windows kernel pool memory leak, from crash dumps, logs or WinDbg.

The functions here are those of the command ``poolleak`` (see :mod:`pykdext.library`); each is imported when it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, List

if TYPE_CHECKING:
    from pykdext.errors import PykdextError
    from pykdext.library import BatchAnswer, OpenSource, analyze, batch, diff, find, to_dict, trend
    from pykdext.library import open_source as open  # noqa: A004 - read as pykdext.open

__version__ = "0.1.0"

__all__ = [
    "BatchAnswer",
    "OpenSource",
    "PykdextError",
    "__version__",
    "analyze",
    "batch",
    "diff",
    "find",
    "open",
    "to_dict",
    "trend",
]

_OTHER_NAMES = {"open": "open_source"}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "pykdext.errors" if name == "PykdextError" else "pykdext.library"
    return getattr(import_module(module), _OTHER_NAMES.get(name, name))


def __dir__() -> List[str]:
    return sorted({*globals(), *__all__})
