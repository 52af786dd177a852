"""How a stored snapshot is named as a source. It is told without SQLite, which no debugger's Python need have."""

from __future__ import annotations

import os
from typing import NamedTuple, Optional

FILE_MAGIC = b"SQLite format 3\0"
SEPARATOR = "::"


def is_store_head(head: bytes) -> bool:
    """Whether a file that begins so may be a store."""
    return head.startswith(FILE_MAGIC)


class StoredSource(NamedTuple):
    """What ``weeks.sqlite::SRV01@2026-11`` names: a store, a host of it, and the beginning of a time."""

    file: str
    host: Optional[str]
    moment: Optional[str]


def find_stored_source(path: str) -> Optional[StoredSource]:
    """The store that a source names, with the host behind ``::``; None if the file is no store or not there."""
    file, _, selection = path.partition(SEPARATOR) if not os.path.exists(path) else (path, "", "")
    try:
        with open(file, "rb") as stream:
            if not is_store_head(stream.read(len(FILE_MAGIC))):
                return None
    except OSError:
        return None
    host, _, moment = selection.partition("@")
    return StoredSource(file, host or None, moment or None)
