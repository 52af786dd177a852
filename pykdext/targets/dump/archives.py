"""ZIP archives of dumps: the one dump or image in them, and state files that say which memory an image holds."""

from __future__ import annotations

import os
from typing import IO, TYPE_CHECKING, Iterator, Tuple, Type, cast

from pykdext.errors import DumpFormatError
from pykdext.targets.dump.header import DUMP_SIGNATURES
from pykdext.targets.filebytes import FileBytes
from pykdext.targets.foreignfiles import AFF4, AFF4_MEMBER
from pykdext.targets.machine.signatures import HEAD_BYTES, RAW_SUFFIXES, STATE_SUFFIXES, VMWARE, is_machine_head
from pykdext.units import count_things

if TYPE_CHECKING:
    import zipfile
    from io import BufferedIOBase

Opened = Tuple["BufferedIOBase", Tuple[Type[Exception], ...]]
"""A decompressor, and the errors by which it tells of a damaged stream."""

ZIP_MAGIC = b"PK\x03\x04"

MAX_STATE_BYTES = 256 << 20
"""State files that describe a memory have some megabytes, mostly of devices and of the screen."""

_MIN_MEMORY_BYTES = 16 << 20
"""A state file that holds the memory itself is larger."""

_ENCRYPTED_MEMBER = 1  # of the general purpose bits
_MAX_MEMBERS = 64
_MAX_NAMES_CHARACTERS = 200


def open_member(packed: IO[bytes], path: str) -> Opened:
    """The one dump or image in an archive; DumpFormatError if there is none, or more, or it cannot be unpacked."""
    import zipfile

    errors = _list_errors()
    all_errors: Tuple[Type[Exception], ...] = (*errors, OSError)
    try:
        archive = zipfile.ZipFile(packed)
        files = [member for member in archive.infolist() if not member.filename.endswith("/")]
        if any(member.flag_bits & _ENCRYPTED_MEMBER for member in files):
            raise _unusable(path, "an archive with a password", "unpack it with its password first")
        if any(member.filename.endswith(AFF4_MEMBER) for member in files):
            raise DumpFormatError(path, 0, AFF4.found, "a ZIP archive that holds one kernel dump", AFF4.hint)
        heads = [(member, _read_head(archive, member)) for member in files[:_MAX_MEMBERS]]
        dumps = [member for member, head in heads if _is_dump(member, head)]
        if not dumps:
            dumps = [m for m, head in heads if head.startswith(VMWARE) and m.file_size >= _MIN_MEMORY_BYTES]
        if len(dumps) == 1:
            return cast("BufferedIOBase", archive.open(dumps[0])), errors
    except all_errors as error:
        raise _unusable(path, f"a damaged one ({error})", "it may be cut short: copy it again") from error
    except NotImplementedError as error:
        hint = "unpack it first: its kind of compression (often Deflate64, from Windows Explorer) is not read"
        raise _unusable(path, f"one that cannot be unpacked ({error})", hint) from error
    names = ", ".join(repr(member.filename) for member in dumps or files)[:_MAX_NAMES_CHARACTERS] or "nothing"
    found = f"one with {count_things(len(dumps), 'kernel dump')} among {count_things(len(files), 'file')}: {names}"
    raise _unusable(path, found, "unpack it, and give one of its dumps")


def iter_state_files(path: str) -> Iterator[FileBytes]:
    """VMware's state files in an archive of this machine, unpacked, each open until the next is asked for.

    There are none in a file that is no archive, and none where they cannot be unpacked.
    """
    import tempfile
    import zipfile

    errors: Tuple[Type[Exception], ...] = (
        *_list_errors(),
        OSError,
        RuntimeError,
    )  # NotImplementedError is one of the last
    try:
        with open(path, "rb") as packed:
            if packed.read(len(ZIP_MAGIC)) != ZIP_MAGIC:
                return
            archive = zipfile.ZipFile(packed)
            members = [member for member in archive.infolist() if member.filename.lower().endswith(STATE_SUFFIXES)]
            for member in members[:_MAX_MEMBERS]:
                with archive.open(member) as stream:
                    data = stream.read(MAX_STATE_BYTES + 1)
                if data.startswith(VMWARE) and len(data) <= MAX_STATE_BYTES:
                    with tempfile.TemporaryFile() as unpacked:
                        unpacked.write(data)
                        unpacked.flush()
                        yield FileBytes(unpacked, os.path.join(path, member.filename))
    except errors:
        return


def _list_errors() -> Tuple[Type[Exception], ...]:
    """What the standard library raises for damaged archives."""
    import lzma
    import zipfile
    import zlib

    return (EOFError, ValueError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)


def _read_head(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    with archive.open(member) as stream:
        return stream.read(HEAD_BYTES)


def _is_dump(member: zipfile.ZipInfo, head: bytes) -> bool:
    is_raw = member.filename.lower().endswith(RAW_SUFFIXES)
    return is_raw or head.startswith(DUMP_SIGNATURES) or is_machine_head(head)


def _unusable(path: str, found: str, hint: str) -> DumpFormatError:
    return DumpFormatError(path, 0, found, "a ZIP archive that holds one kernel dump", hint)
