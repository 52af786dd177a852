"""Symbol paths as WinDbg writes them (``_NT_SYMBOL_PATH``): what each element asks for.

Source: WDK documentation, "Symbol path for Windows debuggers" and "Advanced SymSrv use".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import List, Optional, Tuple, Union

_SERVER = re.compile(r"https?://", re.IGNORECASE)


@dataclass(frozen=True)
class Place:
    """A folder or a single file."""

    path: str


@dataclass(frozen=True)
class StoreChain:
    """``srv*``, ``symsrv*`` or ``cache*``: symbol stores, asked in order; each a folder, or a server by its URL.

    ``cache`` is the folder that keeps what servers give; None if the path names none.
    """

    stores: Tuple[str, ...]
    cache: Optional[str]


PathElement = Union[Place, StoreChain]


def parse_symbol_path(text: str) -> Tuple[PathElement, ...]:
    """The elements between the semicolons of a symbol path.

    ``cache*FOLDER`` is a store itself, and keeps files for the servers to its right that come without a folder. The
    stores that WinDbg fills in for a bare ``srv*`` are not known here: nothing is asked that the path does not name.
    """
    elements: List[PathElement] = []
    cache: Optional[str] = None
    for written in text.split(";"):
        kind, *parts = (_unquote(part) for part in written.split("*"))
        kind = kind.lower()
        if parts and kind in ("srv", "symsrv", "cache"):
            # symsrv*DLL*...: the DLL that does WinDbg's asking is of no use here.
            stores = tuple(part for part in (parts[1:] if kind == "symsrv" else parts) if part)
            folder = next((store for store in stores if not is_server(store)), cache)
            elements.append(StoreChain(stores, folder))
            if kind == "cache":
                cache = folder
        elif _unquote(written):
            elements.append(Place(_unquote(written)))
    return tuple(elements)


def is_server(store: str) -> bool:
    """Whether a store is asked over the network."""
    return _SERVER.match(store) is not None


def _unquote(text: str) -> str:
    return text.strip().strip('"')
