"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import stat
from typing import IO, Iterable, Iterator, Tuple


def write_whole(path: str, data: bytes, *, is_waited_for: bool = True) -> None:
    """Write ``data`` to a new file beside ``path`` and rename it; an older file stays until the new one is complete.

    Unless ``is_waited_for`` the disk may have it later: after a loss of power the file may be damaged.

    The new file has the older one's permissions. A link stays one, and its target is replaced; a device or pipe is
    written to.

    Raises:
        OSError: the folder is missing or read-only, or the disk is full; nothing is left behind.
    """
    _write(path, (data,), is_waited_for=is_waited_for)


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


def _write(path: str, pieces: Iterable[bytes], *, is_waited_for: bool = True) -> None:
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            with open(path, "wb") as file:
                file.writelines(pieces)
        else:
            _replace(os.path.realpath(path), pieces, is_waited_for=is_waited_for)
    except OSError as error:
        error.filename, error.filename2 = path, None  # not those of the partial file
        raise


def _replace(path: str, pieces: Iterable[bytes], *, is_waited_for: bool) -> None:
    file, partial = open_partial(path)
    try:
        with file:
            file.writelines(pieces)
            file.flush()
            if is_waited_for:
                os.fsync(file.fileno())
        if os.path.exists(path):
            os.chmod(partial, stat.S_IMODE(os.stat(path).st_mode))
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise


def open_partial(path: str) -> Tuple[IO[bytes], str]:
    """A new file in the folder of ``path``, to be renamed to it once it is complete; the file and its path.

    Nobody can know its name before, and a file or link that is there already is never opened: in a folder that many
    may write to, no link that somebody planted leads elsewhere, and two machines never write into one file.
    """
    partial = os.path.join(os.path.dirname(path), f"poolleak-{os.urandom(12).hex()}.partial")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
    return os.fdopen(os.open(partial, flags, 0o666), "wb"), partial


def write_text(path: str, text: str) -> None:
    """``write_pieces`` of one piece."""
    write_pieces(path, (text,))
