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
