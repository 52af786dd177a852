"""Opens a dump file that is stored plainly or compressed (gzip, xz: recognised by content).

A compressed dump is unpacked once into a temporary file that the operating system removes by itself; runs of zeros
become holes in it, so that a sparse dump stays small on the disk.
"""

from __future__ import annotations

import os
from typing import IO, TYPE_CHECKING, Callable, Iterator, Optional, Tuple, Type

from pykdext.errors import TargetError
from pykdext.targets.filebytes import FileBytes

if TYPE_CHECKING:
    import gzip
    import lzma

Progress = Callable[[int, int], None]
"""Called while a file is unpacked: bytes of the compressed file consumed so far, and its size in bytes."""

MAX_UNPACKED_BYTES = 64 << 30
"""A compressed file is unpacked no further than this, holes included."""

RESERVED_DISK_BYTES = 256 << 20
"""Unpacking leaves so much of the temporary disk free."""

_GZIP_MAGIC = b"\x1f\x8b\x08"
_XZ_MAGIC = b"\xfd7zXZ\x00"
_PIECE_BYTES = 1 << 16
_ZEROS = bytes(_PIECE_BYTES)


def open_file(path: str, progress: Optional[Progress] = None) -> FileBytes:
    """Open ``path`` for positional reads, unpacked if it is compressed. TargetError if it cannot be opened.

    A compressed stream that is cut or damaged is read as far as it goes, and ``warnings`` of the answer says so.
    """
    try:
        stream = open(path, "rb", buffering=0)  # noqa: SIM115 - FileBytes owns it
        try:
            magic = stream.read(len(_XZ_MAGIC))
            if not magic.startswith((_GZIP_MAGIC, _XZ_MAGIC)):
                return FileBytes(stream, path)
            with stream:
                stream.seek(0)
                return _unpack(stream, path, progress, is_xz=magic == _XZ_MAGIC)
        except BaseException:
            stream.close()
            raise
    except OSError as error:
        raise TargetError(f"{path}: cannot be opened: {error.strerror or error}") from error


def _unpack(packed: IO[bytes], path: str, progress: Optional[Progress], *, is_xz: bool) -> FileBytes:
    """Unpack into a temporary file that vanishes when it is closed."""
    import shutil  # these modules cost time, and few dumps are compressed
    import tempfile

    unpacked = tempfile.TemporaryFile()  # noqa: SIM115 - FileBytes owns it
    try:
        room = shutil.disk_usage(tempfile.gettempdir()).free - RESERVED_DISK_BYTES
        reader, errors = _open_reader(packed, is_xz=is_xz)
        with reader:
            pieces = _iter_unpacked(reader, packed, progress)
            reason = _write_sparsely(pieces, errors, unpacked, room)
        size = os.fstat(unpacked.fileno()).st_size
        warnings = () if reason is None else (f"the compressed file gave {size:,} bytes only: {reason}",)
        return FileBytes(unpacked, path, warnings)
    except BaseException:
        unpacked.close()
        raise


def _open_reader(
    packed: IO[bytes], *, is_xz: bool
) -> Tuple[gzip.GzipFile | lzma.LZMAFile, Tuple[Type[Exception], ...]]:
    """The decompressor of a stream, and the errors by which it tells of a damaged one."""
    if is_xz:
        import lzma

        return lzma.LZMAFile(packed), (EOFError, lzma.LZMAError)
    import gzip
    import zlib

    return gzip.GzipFile(fileobj=packed), (EOFError, gzip.BadGzipFile, zlib.error)


def _iter_unpacked(
    reader: gzip.GzipFile | lzma.LZMAFile, packed: IO[bytes], progress: Optional[Progress]
) -> Iterator[bytes]:
    """The pieces of a compressed stream; ``read1``, so that an error does not take good bytes along."""
    packed_size = os.fstat(packed.fileno()).st_size
    while piece := reader.read1(_PIECE_BYTES):
        yield piece
        if progress is not None:
            progress(packed.tell(), packed_size)


def _write_sparsely(
    pieces: Iterator[bytes], errors: Tuple[Type[Exception], ...], unpacked: IO[bytes], room_bytes: int
) -> Optional[str]:
    """Write all that can be unpacked; zeros are skipped over. The reason why it ended early, or None."""
    size = written = 0
    reason = None
    try:
        for piece in pieces:
            is_hole = piece == _ZEROS[: len(piece)]
            if size + len(piece) > MAX_UNPACKED_BYTES:
                reason = f"it unpacks to more than {MAX_UNPACKED_BYTES:,} bytes"
                break
            if not is_hole and written + len(piece) > room_bytes:
                reason = "the temporary disk has no more room"
                break
            if not is_hole:
                unpacked.seek(size)
                written += unpacked.write(piece)
            size += len(piece)
    except errors as error:
        reason = str(error) or "it is damaged"
    unpacked.truncate(size)
    return reason
