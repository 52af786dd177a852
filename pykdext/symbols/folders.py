"""Where files of symbols lie in folders: the layout of symbol stores, and ISF files anywhere below a folder.

Source: WDK documentation, "SymStore" and "Symbol store folder tree".
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import List, Optional, Tuple

from pykdext.symbols.identity import PdbName
from pykdext.symbols.isf import SUFFIXES

MAX_FILES = 20_000
"""A folder is searched for ISF files no further than this."""

MAX_UNNAMED_FILES = 16
"""How many ISF files are opened whose name gives no GUID: each costs about a tenth of a second."""

_TWO_TIER_MARK = "index2.txt"
_SOME_GUID = re.compile("[0-9A-F]{32}", re.IGNORECASE)


@dataclass(frozen=True)
class IsfListing:
    """Files that may be the ISF file of one PDB.

    Attributes:
        named: those with the PDB's GUID in their name. unnamed: those with no GUID at all.
        is_complete: the folder was searched to its end.
    """

    named: Tuple[str, ...]
    unnamed: Tuple[str, ...]
    is_complete: bool


def store_parts(store: str, wanted: PdbName) -> Tuple[str, ...]:
    """The folders and the file name of a PDB below a store: NAME, GUID and age, NAME.

    In a two-tier store (it holds ``index2.txt``) a folder of the name's first two letters comes before them.
    """
    tier = (wanted.file_name[:2],) if find_inside(store, _TWO_TIER_MARK) is not None else ()
    return (*tier, wanted.file_name, wanted.key, wanted.file_name)


def find_inside(folder: str, *parts: str) -> Optional[str]:
    """The path of ``parts`` below ``folder``, in whatever case their names are written; None if it is not there."""
    path = folder
    for part in parts:
        inside = os.path.join(path, part)
        if not os.path.exists(inside):
            try:
                names = os.listdir(path)
            except OSError:
                return None
            inside = next((os.path.join(path, name) for name in names if name.lower() == part.lower()), "")
        if not inside:
            return None
        path = inside
    return path


def compressed_name(file_name: str) -> str:
    """``ntkrnlmp.pd_`` for ``ntkrnlmp.pdb``: what ``compress`` and old symbol stores make of a name."""
    return file_name[:-1] + "_"


def list_isf_files(folder: str, guid: str) -> IsfListing:
    """The files with an ISF file's suffix below ``folder`` that may be of the PDB with this GUID."""
    named: List[str] = []
    unnamed: List[str] = []
    seen = 0
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            seen += 1
            if seen > MAX_FILES:
                return IsfListing(tuple(named), tuple(unnamed), is_complete=False)
            if name.lower().endswith(SUFFIXES) and os.path.isfile(os.path.join(place, name)):
                if guid.lower() in name.lower():
                    named.append(os.path.join(place, name))
                elif not _SOME_GUID.search(name) and len(unnamed) < MAX_UNNAMED_FILES:
                    unnamed.append(os.path.join(place, name))
    return IsfListing(tuple(named), tuple(unnamed), is_complete=True)
