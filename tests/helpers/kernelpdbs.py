"""The PDB of a forged kernel: every structure that public PDBs of its build have, and its variables.

It is made of what is known of the real PDB (the shipped table is the record of these), by the tests' own writer.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Dict, List, Mapping, Optional, Tuple

from pykdext.model import Machine
from pykdext.model.layouts import FieldLayout, TypeLayout
from pykdext.model.structtables import StructTable, _load
from tests.helpers import pdbwriter as writer

_INTEGERS = {1: 0x20, 2: 0x21, 4: 0x22, 8: 0x23}
_BYTE = 0x20
_FORWARD = 0x80

_FIRST = "NonPagedPool PagedPool SystemCache SystemPtes UltraZero PfnDatabase Cfg HyperSpace"
_SECOND = "PfnDatabase NonPagedPool PagedPool SystemCache SystemPtes UltraZero Cfg HyperSpace KernelStacks PageTables"
_REGION_TYPES = {
    14393: f"{_FIRST} PageTables SpecialPool Session WorkingSetPagedPool WorkingSetSystemCache SystemImages",
    17763: f"{_FIRST} KernelStacks PageTables SpecialPoolPaged SpecialPoolNonPaged Session SystemImages",
    19041: f"{_FIRST} KernelStacks PageTables Session SecureNonPagedPool SystemImages",
    20348: f"{_SECOND} Session SecureNonPagedPool KernelShadowStacks SystemImages",
    22000: f"{_SECOND} Session SecureNonPagedPool KernelShadowStacks SystemImages",
}
"""_MI_ASSIGNED_REGION_TYPES by build, as public symbols have it, without the first word of each enumerator."""


class _Records:
    """Type records in the making."""

    def __init__(self, types: Mapping[str, TypeLayout]) -> None:
        self._types = types
        self._indices: Dict[str, int] = {}
        self._unnamed = 0
        self.records: List[bytes] = []

    def add_type(self, name: str) -> int:
        if name not in self._indices:
            layout = self._types.get(name)
            if layout is None:
                self._indices[name] = self._add(writer.structure(name, 0, 0, properties=_FORWARD))
            else:
                ends = (field.offset + (field.size or 0) for field in layout.fields.values())
                size = max(ends, default=0) if layout.size is None else layout.size
                self._indices[name] = self._add_structure(name, size, layout.fields)
        return self._indices[name]

    def _add_structure(self, name: str, size: int, fields: Mapping[str, FieldLayout]) -> int:
        """A structure; members of members, which the table names by their path, are structures of their own."""
        inner: Dict[str, Dict[str, FieldLayout]] = {}
        for path, field in fields.items():
            first, _, rest = path.partition(".")
            if rest:
                inner.setdefault(first, {})[rest] = field
        members = [
            (field.offset, path, self._add_field(field))
            for path, field in fields.items()
            if "." not in path and path not in inner
        ]
        for first, parts in inner.items():
            self._unnamed += 1
            whole = fields.get(first)
            start = 0 if whole is None else whole.offset
            moved = {path: replace(field, offset=field.offset - start) for path, field in parts.items()}
            room = size if whole is None else whole.size or 0
            members.append((start, first, self._add_structure(f"_PART_{self._unnamed}", room, moved)))
        listed = [writer.member(path, index, offset) for offset, path, index in members]
        return self._add(writer.structure(name, size, self._add_list(listed)))

    def _add_list(self, members: List[bytes]) -> int:
        following: Optional[int] = None
        for start in reversed(range(0, len(members) or 1, 100)):
            tail = [] if following is None else [writer.continued(following)]
            following = self._add(writer.field_list(*members[start : start + 100], *tail))
        return following or 0

    def _add_field(self, field: FieldLayout) -> int:
        count = field.count
        size = field.size or 0
        if field.type_name is not None:
            index = self.add_type(field.type_name)
            return index if count is None else self._add_array(index, size)
        if field.bits is not None:
            first, bits = field.bits
            return self._add(writer.padded(struct.pack("<HIBB", 0x1205, _INTEGERS[size], bits, first)))
        if count is not None:
            return self._add_array(_INTEGERS[size // count], size)
        return _INTEGERS[size] if size in _INTEGERS else self._add_array(_BYTE, size)

    def add_region_types(self, names: List[str]) -> None:
        listed = [writer.enumerator(f"AssignedRegion{name}", value) for value, name in enumerate([*names, "Maximum"])]
        self._add(writer.enumeration("_MI_ASSIGNED_REGION_TYPES", self._add_list(listed), len(listed)))

    def _add_array(self, element: int, size: int) -> int:
        body = struct.pack("<HII", 0x1503, element, 0x23) + writer.numeric(size) + b"\0"
        return self._add(writer.padded(body))

    def _add(self, record: bytes) -> int:
        self.records.append(record)
        return 0x1000 + len(self.records) - 1


def kernel_pdb(
    build: int,
    guid: str,
    variables: Mapping[str, int],
    revision: Optional[int] = None,
    machine: Machine = Machine.X64,
    newest: Tuple[int, int] = (22000, 2538),
) -> bytes:
    """The PDB of a kernel of ``build`` with ``variables`` (name to RVA).

    A structure that no table tells of this build on ``machine`` is as in the x64 kernel ``newest``.
    """
    tables = [StructTable(machine, build, revision)]
    if machine is not Machine.X64 or build > newest[0]:
        tables += [StructTable(machine, newest[0]), StructTable(Machine.X64, *newest)]
    types: Dict[str, TypeLayout] = {}
    for name in _load():
        layout = next((layout for table in tables for layout in [table.find_type(name)] if layout is not None), None)
        if layout is not None:
            types[name] = layout
    if len(tables) > 1 and "_EPROCESS" in types and "Pcb" not in types["_EPROCESS"].fields:
        process = types["_EPROCESS"]
        types["_EPROCESS"] = replace(process, fields={**process.fields, "Pcb": FieldLayout(0, None, None, "_KPROCESS")})
    records = _Records(types)
    for name in types:
        records.add_type(name)
    if build in _REGION_TYPES:
        records.add_region_types(_REGION_TYPES[build].split())
    symbols = b"".join(writer.public(name, 1, rva - 0x1000) for name, rva in sorted(variables.items()))
    streams = [
        b"",
        writer.info(guid, 1),
        writer.types(records.records),
        writer.debug(1, 5, sections=6),
        b"",
        symbols,
        writer.section(0x1000, 0x2000000),
    ]
    return writer.msf(streams)
