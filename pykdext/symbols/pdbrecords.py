"""The symbol records of a PDB that name code: publics of the whole image, procedures of each object file.

Sources: Microsoft's published ``microsoft-pdb`` sources (``cvinfo.h``, ``dbi.h``) and LLVM's documentation of the
format.
"""

from __future__ import annotations

import struct
from typing import Iterator, List, NamedTuple, Tuple

from pykdext.errors import SymbolFileError
from pykdext.units import count_things

_RECORD = struct.Struct("<HH")
"""Bytes after the length itself, kind."""

_S_PUB32 = 0x110E
_PUBLIC = struct.Struct("<IIH")
"""Flags, offset, segment; the name follows."""
_IS_CODE = 0x3
"""The linker says so of a public (1), or that it is a function (2)."""

_PROCEDURE_KINDS = frozenset((0x110F, 0x1110, 0x1146, 0x1147, 0x1155, 0x1156))
"""S_LPROC32 and S_GPROC32, those with an ID instead of a type, and their DPC forms."""
_PROCEDURE = struct.Struct("<12xI12xIHx")
"""Bytes of code, offset, segment; the name follows."""

_MODULE_BYTES = 64
_MODULE_STREAM = struct.Struct("<34xHI")
"""Of an object file: its stream, and how many bytes of that are symbols; two names follow at ``_MODULE_BYTES``."""
_SIGNATURE_BYTES = 4


class PublicSymbol(NamedTuple):
    """A name that other object files can see, its segment (from 1) and offset, and whether code stands there."""

    name: str
    segment: int
    offset: int
    is_code: bool


class Procedure(NamedTuple):
    """A function as the compiler told of it: name, segment (from 1), offset, and bytes of its code."""

    name: str
    segment: int
    offset: int
    size_bytes: int


def iter_publics(path: str, records: bytes) -> Iterator[PublicSymbol]:
    """Every public among the symbol records. SymbolFileError if a record does not end in them."""
    for kind, start, end in _iter_records(path, records, 0):
        name_start = start + _PUBLIC.size
        if kind == _S_PUB32 and name_start <= end:
            flags, offset, segment = _PUBLIC.unpack_from(records, start)
            yield PublicSymbol(_name(records, name_start, end), segment, offset, bool(flags & _IS_CODE))


def iter_procedures(path: str, stream: bytes) -> Iterator[Procedure]:
    """Every procedure in the symbols of one object file. SymbolFileError if a record does not end in them."""
    for kind, start, end in _iter_records(path, stream, _SIGNATURE_BYTES):
        name_start = start + _PROCEDURE.size
        if kind in _PROCEDURE_KINDS and name_start <= end:
            size_bytes, offset, segment = _PROCEDURE.unpack_from(stream, start)
            yield Procedure(_name(stream, name_start, end), segment, offset, size_bytes)


def list_module_streams(modules: bytes) -> List[Tuple[int, int]]:
    """The stream of each object file and its bytes of symbols, of the DBI stream's list; what is damaged ends it."""
    streams: List[Tuple[int, int]] = []
    position = 0
    while position + _MODULE_BYTES <= len(modules):
        streams.append(_MODULE_STREAM.unpack_from(modules, position))
        position += _MODULE_BYTES
        for _ in ("module name", "object file name"):
            end = modules.find(b"\0", position)
            if end < 0:
                return streams
            position = end + 1
        position += -position % 4
    return streams


def _iter_records(path: str, records: bytes, position: int) -> Iterator[Tuple[int, int, int]]:
    """Kind of each record, and where its content begins and ends."""
    size_bytes = len(records)
    while position + _RECORD.size <= size_bytes:
        length, kind = _RECORD.unpack_from(records, position)
        end = position + 2 + length
        if length < 2 or end > size_bytes:
            break
        yield kind, position + _RECORD.size, end
        position = end
    if position < size_bytes:
        found = f"a record outside of it at 0x{position:x}"
        raise SymbolFileError(path, found, f"whole records in the {count_things(size_bytes, 'byte')} of symbols")


def _name(records: bytes, start: int, end: int) -> str:
    return records[start:end].split(b"\0", 1)[0].decode("utf-8", "replace")
