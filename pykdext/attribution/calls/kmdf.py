"""The kernel-mode driver framework's functions, which drivers call through a table instead of imports.

A framework driver holds a structure ``WDF_BIND_INFO`` that names the library and tells the loader where it wants the
table. From version 1.15 on the driver gets a pointer to the framework's table, before that a copy of the table. Index
numbers never change; new functions are appended (Windows Driver Frameworks repository: fxldr.h, fxlibrarycommon.cpp,
wdffuncenum.h).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Iterator, Optional, Tuple

from pykdext.attribution.flow.values import Atom, FieldRead, ImageRead
from pykdext.images.image import Image

MAX_FUNCTIONS = 2048
"""Entries of a believable table; version 1.33 has about 480."""

MAX_NAMES, MAX_POINTERS = 4, 64
"""Places of the library's name, and of pointers to one of them, that are looked at."""

_LIBRARY = "KmdfLibrary\0".encode("utf-16-le")
_FIRST_POINTER_VERSION = (1, 15)
_FUNCTION_NAMES = {116: "WdfDriverCreate", 192: "WdfMemoryCreate", 198: "WdfLookasideListCreate"}

_BIND_INFO = {4: struct.Struct("<IIIIIII"), 8: struct.Struct("<I4xQIIIIQ")}
"""By pointer size: Size, Component, Version.Major, Version.Minor, Version.Build, FuncCount, FuncTable."""


@dataclass(frozen=True)
class FrameworkTable:
    """Where a driver finds the framework's functions.

    Attributes:
        rva: of the driver's variable. count: functions in the table. is_pointer: the variable points at the table;
        otherwise it is the table.
    """

    rva: int
    count: int
    is_pointer: bool
    pointer_size: int

    def function_name(self, target: Atom) -> Optional[str]:
        """The function that is called through ``target``; of one that takes no pool tag its number."""
        offset = self._table_offset(target)
        if offset is None or offset % self.pointer_size or not 0 <= offset < self.count * self.pointer_size:
            return None
        number = offset // self.pointer_size
        return _FUNCTION_NAMES.get(number, f"function {number} of the framework")

    @property
    def slots(self) -> Tuple[int, ...]:
        """The RVAs of the driver's pointers that calls of these functions read first."""
        if self.is_pointer:
            return (self.rva,)
        return tuple(self.rva + number * self.pointer_size for number in _FUNCTION_NAMES if number < self.count)

    def _table_offset(self, target: Atom) -> Optional[int]:
        if self.is_pointer:
            if isinstance(target, FieldRead) and isinstance(target.base, ImageRead) and target.base.rva == self.rva:
                return target.offset
            return None
        return target.rva - self.rva if isinstance(target, ImageRead) else None


def find_framework_table(image: Image) -> Optional[FrameworkTable]:
    """The table of a framework driver, or None. Never fails."""
    layout = _BIND_INFO[image.machine.pointer_size]
    for name_rva in _iter_places(image, _LIBRARY, MAX_NAMES):
        pointer = (image.module.base + name_rva).to_bytes(8, "little")[: image.machine.pointer_size]
        for pointer_rva in _iter_places(image, pointer, MAX_POINTERS):
            raw = image.read(max(pointer_rva - image.machine.pointer_size, 0), layout.size)
            table = _table_of(image, *layout.unpack(raw)) if raw else None
            if table is not None:
                return table
    return None


def _table_of(
    image: Image, size: int, _component: int, major: int, minor: int, _build: int, count: int, table: int
) -> Optional[FrameworkTable]:
    """The table by the members of a ``WDF_BIND_INFO``, if they can be believed."""
    pointer_size = image.machine.pointer_size
    if size < _BIND_INFO[pointer_size].size or major != 1 or not 0 < count <= MAX_FUNCTIONS:
        return None
    rva = table - image.module.base
    if not 0 < rva < image.size:
        return None
    return FrameworkTable(rva, count, (major, minor) >= _FIRST_POINTER_VERSION, pointer_size)


def _iter_places(image: Image, sought: bytes, limit: int) -> Iterator[int]:
    """The first RVAs of a byte string in what is in memory of the image's sections."""
    found = 0
    for section in image.sections:
        if not section.initialised or image.is_resource(section):
            continue
        for rva, data in image.iter_present(section):
            at = data.find(sought)
            while at >= 0 and found < limit:
                yield rva + at
                found += 1
                at = data.find(sought, at + 1)
