"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from typing import Iterable, Iterator


def write_whole(path: str, data: bytes) -> None:
    """Write ``data`` to a new file beside ``path`` and rename it; an older file stays until the new one is complete.

    Raises:
        OSError: the folder is missing or read-only, or the disk is full; nothing is left behind.
    """
    _write(path, (data,))


def write_pieces(path: str, pieces: Iterable[str]) -> None:
    """``write_whole`` of UTF-8 text that comes in pieces, compressed by gzip if ``path`` ends in ``.gz``."""
    encoded = (piece.encode("utf-8", "backslashreplace") for piece in pieces)  # names of files may be no text
    _write(path, _iter_packed(encoded) if path.endswith(".gz") else encoded)


def _iter_packed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    import zlib

    packer = zlib.compressobj(wbits=31)  # gzip's form
    for piece in pieces:
        yield packer.compress(piece)
    yield packer.flush()


def _write(path: str, pieces: Iterable[bytes]) -> None:
    partial = f"{path}.{os.getpid()}.partial"
    try:
        with open(partial, "wb") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        if os.path.exists(partial):
            os.unlink(partial)
        raise


def write_text(path: str, text: str) -> None:
    """``write_pieces`` of one piece."""
    write_pieces(path, (text,))
