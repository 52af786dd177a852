"""Opens a dump file that is stored plainly or compressed (gzip, xz, one dump in a ZIP archive: told by content).

A compressed dump is unpacked once into a temporary file that the operating system removes by itself; runs of zeros
become holes in it, so that a sparse dump stays small on the disk.
"""

from __future__ import annotations

import os
from typing import IO, TYPE_CHECKING, Callable, Iterator, NamedTuple, Optional, Tuple, Type

from pykdext.errors import DumpFormatError, TargetError
from pykdext.targets.dump.archives import ZIP_MAGIC, Opened, open_member
from pykdext.targets.dump.header import DUMP_SIGNATURES
from pykdext.targets.dump.remote import failures_named, is_remote, open_remote_file, open_remote_stream
from pykdext.targets.filebytes import FileBytes
from pykdext.targets.machine.signatures import HEAD_BYTES, is_machine_head
from pykdext.units import count_things

if TYPE_CHECKING:
    from io import BufferedIOBase

Progress = Callable[[int, int], None]
"""Called while a file is unpacked: bytes of the compressed file consumed so far, and its size in bytes."""

MAX_UNPACKED_BYTES = 64 << 30
"""A compressed file is unpacked no further than this, holes included."""

RESERVED_DISK_BYTES = 256 << 20
"""Unpacking leaves so much of the temporary disk free."""

_PIECE_BYTES = 1 << 16
_ZEROS = bytes(_PIECE_BYTES)


class _Packing(NamedTuple):
    """A way of compression: how its files begin, and what reads a file, given that and its path."""

    magic: bytes
    open_reader: Callable[[IO[bytes], str], Opened]


def open_file(path: str, progress: Optional[Progress] = None) -> FileBytes:
    """Open ``path`` for positional reads, unpacked if it is compressed. TargetError if it cannot be opened.

    A compressed stream that is cut or damaged is read as far as it goes, and ``warnings`` of the answer says so.
    DumpFormatError for a ZIP archive that does not hold one dump that can be unpacked.
    """
    if is_remote(path):
        return _open_remote(path, progress)
    try:
        stream = open(path, "rb", buffering=0)  # noqa: SIM115 - FileBytes owns it
        try:
            head = stream.read(_HEAD_BYTES)
            packing = _find_packing(head)
            if packing is None:
                return FileBytes(stream, path)
            with stream:
                stream.seek(0)
                return _unpack(stream, path, progress, packing)
        except BaseException:
            stream.close()
            raise
    except OSError as error:
        raise TargetError(f"{path}: cannot be opened: {error.strerror or error}") from error


def is_dump_head(head: bytes) -> bool:
    """Whether a file that begins so is a dump, or compressed in a way that is read."""
    return head.startswith(DUMP_SIGNATURES) or is_machine_head(head) or _find_packing(head) is not None


def _open_remote(url: str, progress: Optional[Progress]) -> FileBytes:
    """A remote file as it is, or all of it unpacked onto this machine."""
    file = open_remote_file(url)
    packing = _find_packing(file.read_at(0, _HEAD_BYTES))
    if packing is None:
        return file
    file.close()
    with failures_named(f"{file.path}: cannot be read"), open_remote_stream(url) as stream:
        unpacked = _unpack(stream, file.path, progress, packing)
        unpacked.fetched_bytes = stream.tell()
        return unpacked


def _unpack(packed: IO[bytes], path: str, progress: Optional[Progress], packing: _Packing) -> FileBytes:
    """Unpack into a temporary file that vanishes when it is closed."""
    import shutil  # these modules cost time, and few dumps are compressed
    import tempfile

    unpacked = tempfile.TemporaryFile()  # noqa: SIM115 - FileBytes owns it
    try:
        room = shutil.disk_usage(tempfile.gettempdir()).free - RESERVED_DISK_BYTES
        reader, errors = packing.open_reader(packed, path)
        with reader:
            pieces = _iter_unpacked(reader, packed, progress)
            reason = _write_sparsely(pieces, errors, unpacked, room)
        size = os.fstat(unpacked.fileno()).st_size
        if reason is not None and not size:
            found = f"a compressed file of which nothing can be unpacked ({reason})"
            raise DumpFormatError(path, 0, found, "a compressed dump or log", "it is damaged: copy it again")
        warnings = () if reason is None else (f"the compressed file gave {count_things(size, 'byte')} only: {reason}",)
        return FileBytes(unpacked, path, warnings)
    except BaseException:
        unpacked.close()
        raise


def _open_gzip(packed: IO[bytes], _path: str) -> Opened:
    import gzip
    import zlib

    return gzip.GzipFile(fileobj=packed), (EOFError, gzip.BadGzipFile, zlib.error)


def _open_xz(packed: IO[bytes], _path: str) -> Opened:
    import lzma

    return lzma.LZMAFile(packed), (EOFError, lzma.LZMAError)


_PACKINGS = (
    _Packing(b"\x1f\x8b\x08", _open_gzip),
    _Packing(b"\xfd7zXZ\x00", _open_xz),
    _Packing(ZIP_MAGIC, open_member),
)

_HEAD_BYTES = HEAD_BYTES


def _find_packing(head: bytes) -> Optional[_Packing]:
    return next((packing for packing in _PACKINGS if head.startswith(packing.magic)), None)


def _iter_unpacked(reader: BufferedIOBase, packed: IO[bytes], progress: Optional[Progress]) -> Iterator[bytes]:
    """The pieces of a compressed stream; ``read1``, so that an error does not take good bytes along."""
    at = packed.tell()
    packed_size = packed.seek(0, os.SEEK_END)
    packed.seek(at)
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
