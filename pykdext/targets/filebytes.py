"""The bytes of a file at given offsets, and what closes itself at the end of a ``with`` block."""

from __future__ import annotations

import errno
import os
import sys
import threading
from typing import IO, TYPE_CHECKING, Optional, Tuple, Type, TypeVar

from pykdext.errors import TargetError

if TYPE_CHECKING:
    from types import TracebackType

_Self = TypeVar("_Self", bound="Closing")


class Closing:
    """A context manager that closes itself, whatever ends the block."""

    def close(self) -> None:
        """Give back what is open."""
        raise NotImplementedError

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.close()


_SEEK_DATA: Optional[int] = getattr(os, "SEEK_DATA", None)


class FileBytes(Closing):
    """Positional reads from a regular file, safe from several threads. A context manager.

    Attributes:
        path: the file as the user gave it, for messages. size: bytes that can be read.
        warnings: what a reader of reports must know of the file (a compressed stream that ends early).
        fetched_bytes: what came over a network for it; None for a file of this machine.
    """

    fetched_bytes: Optional[int] = None

    def __init__(self, stream: IO[bytes], path: str, warnings: Tuple[str, ...] = ()) -> None:
        self.path = path
        self.warnings = warnings
        self._stream = stream
        self._descriptor = stream.fileno()
        self._lock = threading.Lock()
        self.size = os.fstat(self._descriptor).st_size

    def _seek_and_read(self, descriptor: int, size: int, offset: int) -> bytes:
        """What ``os.pread`` does, for systems without it: the lock keeps the two calls together."""
        with self._lock:
            os.lseek(descriptor, offset, os.SEEK_SET)
            return os.read(descriptor, size)

    if sys.platform == "win32":
        _read_some = _seek_and_read
    else:
        _read_some = staticmethod(os.pread)  # without a layer of our own: a page is read in two microseconds

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes at ``offset``, fewer only where the file ends; TargetError if the disk fails."""
        if offset >= self.size:  # a damaged offset may be larger than the system's own calls take
            return b""
        try:
            data = self._read_some(self._descriptor, size, offset)
            if len(data) == size or offset + len(data) >= self.size:
                return data
            pieces = [data]
            done = len(data)
            while done < size and (data := self._read_some(self._descriptor, size - done, offset + done)):
                pieces.append(data)
                done += len(data)
            return b"".join(pieces)
        except OSError as error:
            raise TargetError(f"{self.path}: at 0x{offset:x}: cannot be read: {error.strerror}") from error

    def skip_hole(self, offset: int) -> int:
        """The first offset from ``offset`` on where the file may hold anything but zeros: sparse files have holes."""
        if _SEEK_DATA is None or offset >= self.size:
            return offset
        try:
            with self._lock:
                return os.lseek(self._descriptor, offset, _SEEK_DATA)
        except OSError as error:
            return self.size if error.errno == errno.ENXIO else offset  # ENXIO: nothing but a hole follows

    def close(self) -> None:
        """Give the file back. A read after it fails, and never meets another file of the same number."""
        self._descriptor = -1
        self._stream.close()
