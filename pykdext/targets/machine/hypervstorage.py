"""Hyper-V's storage files (.vmrs, .vsv, .vmcx): named values in a tree, large ones as objects of their own.

Layout: ``support/hvs_file/FORMAT.md`` of microsoft/openvmm, which agrees with three independent readers.
"""

from __future__ import annotations

import struct
import zlib
from typing import Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

from pykdext.errors import DumpFormatError, UnsupportedDumpError
from pykdext.targets.filebytes import FileBytes
from pykdext.units import count_things

MAGIC = b"\x14\x20\x28\x01"

MAX_OBJECT_TABLES = 0x4000
MAX_KEY_TABLE_BYTES = 1 << 20
MAX_KEYS = 1 << 22
"""A machine of 1 TiB has a million pieces of memory."""

MAX_DEPTH = 16

_HEADER = struct.Struct("<IIHIIIIQQ")
_HEADER_BYTES = 0x2E
_HEADER_PLACES = (0, 0x1000)
_CHECKSUM_AT = 4
_FIRST_VERSION = 0x101

_OBJECT_TABLE_AT = 0x2000
_OBJECT_TABLE = struct.Struct("<II")
_OBJECT_TABLE_SIGNATURE = 0x01110001
_OBJECT = struct.Struct("<BIQIB")
_ANOTHER_TABLE, _KEY_TABLE = 1, 2

_KEY_TABLE_HEADER = struct.Struct("<HHHI")
_KEY_TABLE_SIGNATURE = 2
_KEY = struct.Struct("<BBIHIIIB")
_IN_FILE_OBJECT = 1
_FILE_OBJECT = struct.Struct("<IQ")
_FREE, _STRING, _ARRAY, _NODE = 1, 6, 7, 9

_REPLAY_LOG = struct.Struct("<III")
_REPLAY_LOG_SIGNATURE = 0x01110003


class Value(NamedTuple):
    """Where a value's bytes stand in the file."""

    offset: int
    size: int


class _Key(NamedTuple):
    parent: Tuple[int, int]
    name: str
    value: Value
    is_node: bool


class StorageFile:
    """The values of a file by their paths, such as ``/savedstate/RamBlock0``.

    Attributes:
        values: all but nodes. warnings: what is wrong with the file.
    """

    def __init__(self, file: FileBytes) -> None:
        """DumpFormatError if neither header is whole, or the tables cannot be true."""
        self._file = file
        self.warnings: List[str] = []
        self._check_headers()
        self.values: Dict[str, Value] = {}
        self._collect()

    def read(self, path: str, limit_bytes: int) -> Optional[bytes]:
        """The bytes of a value; None if there is none or it is larger than ``limit_bytes``."""
        value = self.values.get(path)
        if value is None or value.size > limit_bytes:
            return None
        return self._file.read_at(value.offset, value.size)

    def _check_headers(self) -> None:
        file = self._file
        good: List[Tuple[int, ...]] = []
        for place in _HEADER_PLACES:
            data = file.read_at(place, _HEADER_BYTES)
            if len(data) == _HEADER_BYTES and data.startswith(MAGIC):
                plain = data[:_CHECKSUM_AT] + bytes(4) + data[_CHECKSUM_AT + 4 :]
                fields = _HEADER.unpack_from(data)
                if zlib.crc32(plain) == fields[1]:
                    good.append(fields)
        if not good:
            hint = "the file is damaged; copy it again while the machine is saved or off"
            raise DumpFormatError(file.path, 0, "no whole header", "one of two with a right checksum", hint)
        latest = max(good, key=lambda fields: (fields[2] - good[0][2] + 0x8000) & 0xFFFF)
        _, _, _, version, _, _, _, log_at, log_bytes = latest
        if version < _FIRST_VERSION:
            hint = "it is of an old Hyper-V; resume the machine, and save it on a newer host"
            raise UnsupportedDumpError(file.path, 10, f"format version 0x{version:x}", "0x101 or later", hint)
        signature, _, entries = _REPLAY_LOG.unpack(
            file.read_at(log_at, _REPLAY_LOG.size).ljust(_REPLAY_LOG.size, b"\0")
        )
        if log_bytes and signature == _REPLAY_LOG_SIGNATURE and entries:
            self.warnings.append("the host did not finish writing the file: the last changes are not in it")

    def _collect(self) -> None:
        """Read all key tables, and give each value its path."""
        keys: Dict[Tuple[int, int], _Key] = {}
        latest: Dict[int, int] = {}
        for offset, size in self._iter_key_tables():
            self._read_key_table(offset, size, keys, latest)
        paths: Dict[Tuple[int, int], str] = {(0, 0): ""}
        for key in keys.values():
            if not key.is_node:
                path = _find_path(key, keys, paths)
                if path is not None:
                    self.values[path] = key.value

    def _iter_key_tables(self) -> Iterator[Tuple[int, int]]:
        """Where key tables stand, and their sizes."""
        file = self._file
        waiting, seen = [_OBJECT_TABLE_AT], {_OBJECT_TABLE_AT}
        while waiting:
            at = waiting.pop(0)
            signature, count = _OBJECT_TABLE.unpack(file.read_at(at, 8).ljust(8, b"\0"))
            if signature != _OBJECT_TABLE_SIGNATURE or count * _OBJECT.size > file.size:
                found = f"signature 0x{signature:x} and {count_things(count, 'object')}"
                hint = "the file is damaged or cut short"
                if at == _OBJECT_TABLE_AT:
                    raise DumpFormatError(file.path, at, found, "a table of objects", hint)
                self.warnings.append(f"a table of objects at 0x{at:x} is damaged: what it lists is missing")
                continue
            data = file.read_at(at + _OBJECT_TABLE.size, count * _OBJECT.size)
            for kind, _, offset, size, _ in _OBJECT.iter_unpack(data[: len(data) // _OBJECT.size * _OBJECT.size]):
                if kind == _KEY_TABLE:
                    yield offset, size
                elif kind == _ANOTHER_TABLE and offset not in seen and len(seen) < MAX_OBJECT_TABLES:
                    seen.add(offset)
                    waiting.append(offset)

    def _read_key_table(
        self, offset: int, size: int, keys: Dict[Tuple[int, int], _Key], latest: Dict[int, int]
    ) -> None:
        data = self._file.read_at(offset, min(size, MAX_KEY_TABLE_BYTES))
        if len(data) < _KEY_TABLE_HEADER.size:
            self.warnings.append(f"a table of keys at 0x{offset:x} is behind the end of the file")
            return
        signature, table, sequence, _ = _KEY_TABLE_HEADER.unpack_from(data)
        if signature != _KEY_TABLE_SIGNATURE:
            self.warnings.append(f"a table of keys at 0x{offset:x} is damaged: what it names is missing")
            return
        if table in latest:
            if (sequence - latest[table]) & 0xFFFF >= 0x8000:
                return
            for place in [place for place in keys if place[0] == table]:
                del keys[place]
        latest[table] = sequence
        at = _KEY_TABLE_HEADER.size
        while at + _KEY.size < len(data) and len(keys) < MAX_KEYS:
            kind, flags, entry_bytes, parent, parent_at, _, _, name_bytes = _KEY.unpack_from(data, at)
            if entry_bytes < _KEY.size or at + entry_bytes > len(data):
                self.warnings.append(f"a table of keys at 0x{offset:x} is damaged at 0x{at:x}: keys are missing")
                return
            start = at + _KEY.size + name_bytes
            name = data[at + _KEY.size : start].partition(b"\0")[0].decode("utf-8", "replace")
            value = _find_value(data, offset, start, at + entry_bytes, kind, flags)
            if kind != _FREE and value is not None:
                keys[table, at] = _Key((parent, parent_at), name, value, kind == _NODE)
            at += entry_bytes


def _find_value(data: bytes, base: int, start: int, end: int, kind: int, flags: int) -> Optional[Value]:
    """Where the value of an entry stands; ``start`` and ``end`` bound it within its table's bytes."""
    if flags & _IN_FILE_OBJECT:
        if start + _FILE_OBJECT.size > end:
            return None
        size, offset = _FILE_OBJECT.unpack_from(data, start)
        return Value(offset, size)
    if kind in (_STRING, _ARRAY):
        if start + 4 > end:
            return None
        size = int.from_bytes(data[start : start + 4], "little")
        return Value(base + start + 4, size) if start + 4 + size <= end else None
    return Value(base + start, max(end - start, 0))


def _find_path(key: _Key, keys: Dict[Tuple[int, int], _Key], paths: Dict[Tuple[int, int], str]) -> Optional[str]:
    """The path of a value, or None where its parents lead nowhere or in a circle."""
    names: List[str] = [key.name]
    place = key.parent
    passed: Set[Tuple[int, int]] = set()
    while place not in paths:
        parent = keys.get(place)
        if parent is None or place in passed or len(passed) >= MAX_DEPTH:
            return None
        passed.add(place)
        names.append(parent.name)
        place = parent.parent
    path = "/".join((paths[place], *reversed(names)))
    if key.parent not in paths:
        paths[key.parent] = path[: -len(key.name) - 1]
    return path
