"""The kernel-mode driver framework (KMDF) as a started driver finds it: its variable points at the table of functions.

A driver describes itself to the framework's loader by a WDF_BIND_INFO (the framework's published source): size, name of
the library, version (three numbers), number of functions, address of the driver's variable for the table.
"""

from __future__ import annotations

import struct

from dumps.forge.architectures import Architecture
from dumps.forge.pagetables import AddressSpace
from dumps.forge.peimage import Image

FRAMEWORK_NAME = "Wdf01000.sys"

_BIND = "WdfVersionBind"
_LIBRARY = "KmdfLibrary".encode("utf-16-le") + b"\0\0"
_TABLE_RVA = 0x3100  # in the framework's .data, behind its own variables
_ROUTINE_RVA = 0x1000


def bind_framework(space: AddressSpace, architecture: Architecture, image: Image, base: int, framework: int) -> None:
    """Do what the framework's loader does for the driver at ``base``; nothing for a driver that does not ask for it.

    All entries of the table are the same routine of the framework, which is loaded at ``framework``.
    """
    if _BIND not in image.imports.values():
        return
    library_rva = next(rva + data.index(_LIBRARY) for rva, data in image.pieces if _LIBRARY in data)
    pointer = architecture.pack_pointers(base + library_rva)
    info_rva = next(rva + data.index(pointer) for rva, data in image.pieces if pointer in data) - len(pointer)
    count_offset, variable_offset = (0x14, 0x18) if architecture.narrow else (0x1C, 0x20)
    (count,) = struct.unpack("<I", space.read(base + info_rva + count_offset, 4))
    variable = int.from_bytes(space.read(base + info_rva + variable_offset, len(pointer)), "little")
    table = architecture.pack_pointers(*[framework + _ROUTINE_RVA] * count)
    space.write(framework + _TABLE_RVA, table)
    space.write(variable, architecture.pack_pointers(framework + _TABLE_RVA))
