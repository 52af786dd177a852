"""What a source itself says of who allocates a tag: ``Binary: netio.sys``, poolmon's ``Mapped_Driver``, ``Source``.

Such words come from a tag list that the tool used, so they are hints: a list may be old, or wrong for this machine.
"""

from __future__ import annotations

import re
from typing import Tuple

from pykdext.model import PoolTag, StatedDriver

_BINARY = re.compile(r"\bBinary\s?:\s*([^\s,;]{1,120})", re.IGNORECASE)
_MODULE = re.compile(r"[A-Za-z0-9_$][A-Za-z0-9_.$+~-]{0,63}")
_DRIVER_FILE = re.compile(r"[A-Za-z0-9_$][\w.$+~-]{0,59}\.(?:sys|exe|dll)", re.IGNORECASE)
_NO_DRIVER = frozenset(("unknown", "none", "n", "null", "na", "various", "multiple"))
_DESCRIPTION = re.compile(r"\s+-\s+")
_SEPARATORS = re.compile(r"\]\s*\[|[,;&|]|\s+(?:or|and)\s+|\s{2,}")
_TEXT_CHARACTERS = 120
_MOST_DRIVERS = 8
"""A cell that names more drivers than these names none."""


def find_binary(tag: PoolTag, description: str) -> Tuple[StatedDriver, ...]:
    """The driver that a description of ``!poolused`` names after the word ``Binary``."""
    named = _BINARY.search(description)
    return find_drivers(tag, named[1], "Binary in !poolused", description) if named else ()


def find_drivers(tag: PoolTag, cell: str, told_by: str, text: str = "") -> Tuple[StatedDriver, ...]:
    """The drivers that a cell names, each once: files, paths, ``nt!io``, with or without a description behind.

    ``text`` is what to quote; by default the cell.
    """
    shown = " ".join((text or cell).split())[:_TEXT_CHARACTERS]
    names = _DESCRIPTION.split(cell.strip().strip("[]"))[0]
    modules = dict.fromkeys(filter(None, map(_read_module, _SEPARATORS.split(names))))
    return (
        tuple(StatedDriver(tag, module, told_by, shown) for module in modules) if len(modules) <= _MOST_DRIVERS else ()
    )


def _read_module(name: str) -> str:
    """The module of one name; empty if it names none."""
    file = name.strip().strip("[]<>'\"()").replace("/", "\\").rpartition("\\")[2].partition("!")[0].strip()
    if not _MODULE.fullmatch(file):
        found = _DRIVER_FILE.search(file)
        file = found[0] if found else ""
    return "" if file.lower() in _NO_DRIVER else file
