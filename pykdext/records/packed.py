"""Logs that are packed, told by their content: gzip, xz, and archives (ZIP, tar) with any number of logs."""

from __future__ import annotations

import io
import struct
import zlib
from datetime import datetime, timezone
from typing import IO, Iterator, NamedTuple, Optional, Tuple, cast

from pykdext.errors import RecordFormatError
from pykdext.units import count_things

MAX_UNPACKED_BYTES = 256 << 20
"""All that is unpacked from one file: more than thousands of logs; what grows beyond is a bomb, or no log."""

_GZIP, _XZ, _ZIP = b"\x1f\x8b", b"\xfd7zXZ\x00", b"PK\x03\x04"
_TAR, _TAR_MARK_AT, _TAR_BLOCK = b"ustar", 0x101, 512
_TAR_SIZE, _TAR_TYPE = slice(124, 136), slice(156, 157)
_TAR_FILES = (b"0", b"\0")
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")
_DESCRIPTOR = b"PK\x07\x08"
_STREAMED, _ZIP64_SIZE = 8, 0xFFFFFFFF
_EXTRA_FIELD = struct.Struct("<2H")
_UNIX_TIME_ID, _UNIX_TIME = 0x5455, struct.Struct("<BL")
_GZIP_HEADER, _GZIP_NAMES_FILE = struct.Struct("<2sBBL"), 8
_FIRST_ZIP_YEAR = 1980
_STORED, _DEFLATED = 0, 8
_ENCRYPTED = 1
_MAX_MEMBERS = 10_000
_PEEKED_BYTES = 4096


class Unpacked(NamedTuple):
    """What one packed file holds.

    Attributes:
        name: within an archive, empty for gzip and xz.
        written_at: its last change before it was packed, which may be that of a copy; None where it is not kept.
        has_zone: whether that time is known to be UTC; a plain ZIP archive keeps the local time of who packed it.
    """

    name: str
    data: bytes
    written_at: Optional[datetime] = None
    has_zone: bool = True


def peek_packed(head: bytes) -> Optional[bytes]:
    """The first bytes that are packed in a file that begins with ``head``; None if it is not packed.

    Empty if they cannot be told: a damaged file, an encrypted archive.
    """
    packed = _peek_stream(head)
    start = head if packed is None else packed
    return _peek_tar(start) if start.startswith(_TAR, _TAR_MARK_AT) else packed


def _peek_stream(head: bytes) -> Optional[bytes]:
    """The first bytes in a compressed file, or of a ZIP archive's first file."""
    try:
        if head.startswith(_GZIP):
            return zlib.decompressobj(31).decompress(head, _PEEKED_BYTES)
        if head.startswith(_XZ):
            import lzma  # only for such files

            return lzma.LZMADecompressor().decompress(head, _PEEKED_BYTES)
        if head.startswith(_ZIP):
            return _peek_member(head)
    except (zlib.error, OSError, EOFError, ValueError, MemoryError):
        return b""
    except Exception as error:  # lzma.LZMAError, which must not be imported for files of other kinds
        if type(error).__name__ != "LZMAError":
            raise
        return b""
    return None


def unpack(data: bytes, path: str) -> Iterator[Unpacked]:
    """The files in packed ``data``, in the order of an archive.

    Raises:
        RecordFormatError: damaged, encrypted, or larger unpacked than ``MAX_UNPACKED_BYTES``.
    """
    try:
        if data.startswith(_ZIP):
            yield from _unpack_archive(data, path)
            return
        written_at = _time_of_gzip(data)
        if not data.startswith(_TAR, _TAR_MARK_AT):
            data = _read_within_limit(_open_stream(data), path, MAX_UNPACKED_BYTES)
        if data.startswith(_TAR, _TAR_MARK_AT):
            yield from _unpack_tar(data, path)
        else:
            yield Unpacked("", data, written_at)
    except (OSError, EOFError, zlib.error, ValueError, OverflowError, NotImplementedError, RuntimeError) as error:
        raise RecordFormatError(path, None, f"damaged packed data ({error})", "a packed log") from None


def _peek_member(head: bytes) -> bytes:
    """The first bytes of an archive's first file that is not empty; folders are empty files."""
    place = 0
    while place + _LOCAL_HEADER.size <= len(head) and head.startswith(_ZIP, place):
        _, _, flags, method, _, _, _, size, _, name_bytes, extra_bytes = _LOCAL_HEADER.unpack_from(head, place)
        start = place + _LOCAL_HEADER.size + name_bytes + extra_bytes
        if flags & _ENCRYPTED or method not in (_STORED, _DEFLATED):
            return b""
        is_streamed = bool(flags & _STREAMED) or size == _ZIP64_SIZE
        if size or is_streamed:
            data = head[start:] if is_streamed else head[start : start + size]
            if method == _DEFLATED:
                return zlib.decompressobj(-15).decompress(data, _PEEKED_BYTES)
            return data.partition(_DESCRIPTOR)[0] if is_streamed else data
        place = start
    return b""


def _peek_tar(head: bytes) -> bytes:
    """The first bytes of the first file in a tar archive; what stands before it are folders and longer names."""
    place = 0
    while place + _TAR_BLOCK < len(head):
        header = head[place : place + _TAR_BLOCK]
        digits = header[_TAR_SIZE].strip(b" \0") or b"0"
        if not digits.isdigit() or b"8" in digits or b"9" in digits:
            return b""
        size = int(digits, 8)
        place += _TAR_BLOCK
        if header[_TAR_TYPE] in _TAR_FILES and size:
            return head[place : place + min(size, _PEEKED_BYTES)]
        place += -(-size // _TAR_BLOCK) * _TAR_BLOCK
    return b""


def _unpack_tar(data: bytes, path: str) -> Iterator[Unpacked]:
    """The plain files of a tar archive."""
    import tarfile

    left = MAX_UNPACKED_BYTES
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            for number, member in enumerate(archive):
                if number >= _MAX_MEMBERS:
                    raise OSError(f"more than {_MAX_MEMBERS:,} files")
                if member.size < 0:
                    raise OSError(f"a file of {count_things(member.size, 'byte')}")
                stream = archive.extractfile(member) if member.isreg() else None
                if stream is None:
                    continue
                content = _read_within_limit(stream, path, left)
                left -= len(content)
                yield Unpacked(member.name, content, _time_of_seconds(int(member.mtime)))
    except tarfile.TarError as error:
        raise OSError(str(error)) from None


def _open_stream(data: bytes) -> IO[bytes]:
    if data.startswith(_GZIP):
        import gzip

        return cast("IO[bytes]", gzip.open(io.BytesIO(data)))
    import lzma

    try:
        return lzma.open(io.BytesIO(data))
    except lzma.LZMAError as error:
        raise OSError(str(error)) from None


def _unpack_archive(data: bytes, path: str) -> Iterator[Unpacked]:
    import zipfile

    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except zipfile.BadZipFile as error:
        raise OSError(str(error)) from None
    left = MAX_UNPACKED_BYTES
    with archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        if len(members) > _MAX_MEMBERS:
            raise OSError(f"more than {_MAX_MEMBERS:,} files")
        for member in members:
            if member.flag_bits & _ENCRYPTED:
                raise OSError(f"{member.filename} is encrypted")
            try:
                with archive.open(member) as stream:
                    content = _read_within_limit(stream, path, left)
            except zipfile.BadZipFile as error:
                raise OSError(str(error)) from None
            left -= len(content)
            exact = _find_unix_time(member.extra)
            yield Unpacked(member.filename, content, exact or _read_zip_time(member.date_time), exact is not None)


def _time_of_gzip(data: bytes) -> Optional[datetime]:
    """When the file was changed that gzip packed; None for other data, and where the header does not say.

    A header that keeps no file's name is of a stream, and its time at best that of packing (RFC 1952, MTIME).
    """
    if not data.startswith(_GZIP) or len(data) < _GZIP_HEADER.size:
        return None
    _, _, flags, seconds = _GZIP_HEADER.unpack_from(data)
    return _time_of_seconds(seconds) if flags & _GZIP_NAMES_FILE else None


def _time_of_seconds(seconds: int) -> Optional[datetime]:
    try:
        return datetime.fromtimestamp(seconds, timezone.utc) if seconds > 0 else None
    except (OverflowError, OSError, ValueError):
        return None


def _find_unix_time(extra: bytes) -> Optional[datetime]:
    """The time in UTC that most packers add to a ZIP member (the "extended timestamp" of Info-ZIP)."""
    place = 0
    while place + _EXTRA_FIELD.size <= len(extra):
        field, size = _EXTRA_FIELD.unpack_from(extra, place)
        place += _EXTRA_FIELD.size
        if field == _UNIX_TIME_ID and _UNIX_TIME.size <= min(size, len(extra) - place):
            flags, seconds = _UNIX_TIME.unpack_from(extra, place)
            return _time_of_seconds(seconds) if flags & 1 else None
        place += size
    return None


def _read_zip_time(date_time: Tuple[int, int, int, int, int, int]) -> Optional[datetime]:
    """The local time of a ZIP member as if it were UTC; None for the format's first day, which stands for none."""
    if date_time[:3] == (_FIRST_ZIP_YEAR, 1, 1):
        return None
    try:
        return datetime(*date_time, tzinfo=timezone.utc)
    except ValueError:
        return None


def _read_within_limit(stream: IO[bytes], path: str, limit: int) -> bytes:
    try:
        data = stream.read(limit + 1)
    except Exception as error:
        if type(error).__name__ != "LZMAError":
            raise
        raise OSError(str(error)) from None
    if len(data) > limit:
        raise RecordFormatError(path, None, f"more than {MAX_UNPACKED_BYTES >> 20} MB when unpacked", "a packed log")
    return data
