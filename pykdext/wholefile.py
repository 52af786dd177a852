"""Files that are there whole or not at all."""

from __future__ import annotations

import os


def write_whole(path: str, data: bytes) -> None:
    """Write ``data`` to a new file beside ``path`` and rename it; an older file stays until the new one is complete.

    Raises:
        OSError: the folder is missing or read-only, or the disk is full; nothing is left behind.
    """
    partial = f"{path}.{os.getpid()}.partial"
    try:
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        if os.path.exists(partial):
            os.unlink(partial)
        raise


def write_text(path: str, text: str) -> None:
    """``write_whole`` of UTF-8 text, compressed by gzip if ``path`` ends in ``.gz``."""
    data = text.encode("utf-8")
    if path.endswith(".gz"):
        import gzip

        data = gzip.compress(data, mtime=0)
    write_whole(path, data)
