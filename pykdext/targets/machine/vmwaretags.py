"""The files of VMware's snapshots and suspended machines (.vmsn, .vmss): groups of named, indexed values.

Layout: the readers of volatility, rekall and LeechCore, and the crash utility's, which came from a VMware engineer.
"""

from __future__ import annotations

import struct
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

from pykdext.errors import DumpFormatError, UnsupportedDumpError
from pykdext.targets.filebytes import FileBytes
from pykdext.targets.machine.signatures import OLD_VMWARE
from pykdext.units import count_things

MAX_GROUPS = 0x100
MAX_TAGS = 0x10000
"""In one group; real files have some thousand."""

MAX_VALUE_BYTES = 0x1000
"""Larger values are not kept: nothing that is needed here is."""

_HEADER = struct.Struct("<4sII")
_GROUP = struct.Struct("<40s24xQQ")
_BLOCK, _COMPRESSED_BLOCK = 0x3F, 0x3E
_BLOCK_HEADER = struct.Struct("<QQH")
_LARGEST_TAG_HEAD = 2 + 0xFF + 3 * 4 + _BLOCK_HEADER.size

_WANTED_GROUPS = ("memory", "cpu", "Checkpoint")

Key = Tuple[str, Tuple[int, ...]]


class Block(NamedTuple):
    """Bytes that a tag holds: where they stand in the file and how many there are."""

    offset: int
    size: int


class StateFile:
    """The tags of the groups that describe memory and processors.

    Attributes:
        values: small values, by name and indices. blocks: where the values of all blocks stand.
        size_bytes: of the file.
    """

    def __init__(self, file: FileBytes) -> None:
        """DumpFormatError if the groups or tags cannot be true."""
        self._file = file
        self.values: Dict[Key, bytes] = {}
        self.blocks: Dict[Key, Block] = {}
        self.warnings: List[str] = []
        for name, position, size in self._iter_groups():
            if name in _WANTED_GROUPS:
                self._read_group(name, position, size)

    def number(self, name: str, *indices: int) -> Optional[int]:
        """A number, or None if there is no such tag."""
        data = self.values.get((name, indices))
        return int.from_bytes(data[:8], "little") if data else None

    def _iter_groups(self) -> Iterator[Tuple[str, int, int]]:
        file = self._file
        head = file.read_at(0, _HEADER.size)
        if head.startswith(OLD_VMWARE):
            hint = "its product is of before 2008: resume the machine and make a crash dump in it"
            raise UnsupportedDumpError(file.path, 0, "a state of an old VMware product", "one of 64 bits", hint)
        if len(head) < _HEADER.size:
            raise DumpFormatError(
                file.path, 0, count_things(len(head), "byte"), "a VMware state file", "it is cut short"
            )
        _, _, count = _HEADER.unpack(head)
        if not 0 < count <= MAX_GROUPS:
            raise DumpFormatError(
                file.path, 8, count_things(count, "group"), f"1 to {MAX_GROUPS}", "the file is damaged"
            )
        table = file.read_at(_HEADER.size, count * _GROUP.size)
        if len(table) < count * _GROUP.size:
            hint = "the file is cut short"
            raise DumpFormatError(file.path, file.size, "the end of the file", count_things(count, "group"), hint)
        for name, position, size in _GROUP.iter_unpack(table):
            yield name.partition(b"\0")[0].decode("latin-1"), position, size

    def _read_group(self, group: str, position: int, size: int) -> None:
        file = self._file
        if position > file.size:
            self.warnings.append(f"the group {group!r} lies behind the end of {file.path}: it is cut short")
            return
        at = position
        for _ in range(MAX_TAGS):
            head = file.read_at(at, _LARGEST_TAG_HEAD)
            if len(head) < 2 or head[:2] == b"\0\0":
                return
            at = self._read_tag(at, head)
            if at > file.size:
                self.warnings.append(f"{file.path} ends within its group {group!r}: it is cut short")
                return
        raise DumpFormatError(file.path, position, f"more than {MAX_TAGS:,} tags", "fewer", "the file is damaged")

    def _read_tag(self, at: int, head: bytes) -> int:
        """Keep a tag whose first bytes are ``head``; return where the next one begins."""
        flags, name_bytes = head[0], head[1]
        value_bytes, index_count = flags & 0x3F, flags >> 6
        name = head[2 : 2 + name_bytes].decode("latin-1")
        indices = struct.unpack_from(f"<{index_count}I", head.ljust(_LARGEST_TAG_HEAD, b"\0"), 2 + name_bytes)
        done: int = 2 + name_bytes + 4 * index_count
        key = (name, tuple(indices))
        if value_bytes not in (_BLOCK, _COMPRESSED_BLOCK):
            self.values.setdefault(key, self._file.read_at(at + done, value_bytes))
            return at + done + value_bytes
        if len(head) < done + _BLOCK_HEADER.size:
            return self._file.size + 1
        on_disk, _, padding = _BLOCK_HEADER.unpack_from(head, done)
        start: int = at + done + _BLOCK_HEADER.size + padding
        if value_bytes == _COMPRESSED_BLOCK:
            if name == "Memory":
                found = "memory in a compressed block"
                hint = "resume the machine, and take a snapshot with memory that is not compressed"
                raise UnsupportedDumpError(self._file.path, at, found, "plain memory", hint)
            return int(start + on_disk)
        self.blocks.setdefault(key, Block(start, on_disk))
        if on_disk <= MAX_VALUE_BYTES:
            self.values.setdefault(key, self._file.read_at(start, on_disk))
        return int(start + on_disk)
