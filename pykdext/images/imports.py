"""Which pointer of an image the loader filled with which function of another image.

Layouts are those of Microsoft's "PE Format" page (import directory table, import lookup table) and of the Windows SDK's
``ImgDelayDescr`` (delay imports). Drivers commonly keep these tables in a section that is discarded after they started;
the pointers themselves stay.
"""

from __future__ import annotations

import struct
from typing import Iterator, List, NamedTuple, Optional, Tuple

from pykdext.images.image import Image

MAX_LIBRARIES = 512
MAX_SLOTS = 0x10000
"""Pointers of one image in all; the largest images of Windows have about 5,000."""

MAX_NAME_BYTES = 512

_IMPORT_DIRECTORY, _DELAY_IMPORT_DIRECTORY = 1, 13
_IMPORT_DESCRIPTOR = struct.Struct("<I8xII")
"""OriginalFirstThunk (the lookup table), Name, FirstThunk (the pointers)."""

_DELAY_DESCRIPTOR = struct.Struct("<II4xII12x")
"""Attributes, DllNameRVA, ImportAddressTableRVA (the pointers), ImportNameTableRVA (the lookup table)."""

_BY_RVA = 1
_HINT_BYTES = 2
"""Before a name: an index into the exporter's names."""

_SLOTS_A_READ = 128


class ImportSlot(NamedTuple):
    """A pointer at ``rva`` to a function of ``module``, by ``name`` or ``ordinal``; both None if neither is known."""

    rva: int
    module: str
    name: Optional[str]
    ordinal: Optional[int]


class _Library(NamedTuple):
    """An imported module: its name, its lookup table (names and ordinals), its pointers."""

    module: str
    lookup_rva: int
    slots_rva: int


def read_imports(image: Image) -> Tuple[ImportSlot, ...]:
    """Every slot of the import tables that can be read, delay imports last. Never fails.

    Where a table is not in memory, its slots are missing; ``image.warnings`` says so, unless it was discarded as
    drivers want it.
    """
    slots: List[ImportSlot] = []
    for library in (*_iter_libraries(image), *_iter_delayed_libraries(image)):
        slots += _iter_slots(image, library, MAX_SLOTS - len(slots))
    return tuple(slots)


def iter_name_rvas(image: Image) -> Iterator[int]:
    """Where the names stand that the lookup tables refer to, as far as they can be read. Never fails."""
    width = image.machine.pointer_size
    for library in (*_iter_libraries(image), *_iter_delayed_libraries(image)):
        entries = _iter_lookup_entries(image, library.lookup_rva, width, MAX_SLOTS)
        yield from (entry + _HINT_BYTES for entry in entries if entry < image.size)


def _iter_libraries(image: Image) -> Iterator[_Library]:
    for lookup, name, slots in _iter_descriptors(image, _IMPORT_DIRECTORY, _IMPORT_DESCRIPTOR):
        if not name or not slots:
            return
        # without a lookup table (old linkers) the names stand in the slots, until the loader fills them
        yield _Library(image.read_text(name, MAX_NAME_BYTES) or "", lookup or slots, slots)


def _iter_delayed_libraries(image: Image) -> Iterator[_Library]:
    for attributes, *places in _iter_descriptors(image, _DELAY_IMPORT_DIRECTORY, _DELAY_DESCRIPTOR):
        if not all(places):
            return
        base = 0 if attributes & _BY_RVA else image.module.base  # the oldest form has addresses, which get relocated
        name, slots, lookup = (place - base for place in places)
        if min(name, slots, lookup) > 0:
            yield _Library(image.read_text(name, MAX_NAME_BYTES) or "", lookup, slots)


def _iter_descriptors(image: Image, directory: int, layout: struct.Struct) -> Iterator[Tuple[int, ...]]:
    """The descriptors of a directory; the caller stops at the one that ends it."""
    rva, size = image.directory(directory)
    if not rva or not size:
        return
    for index in range(MAX_LIBRARIES):
        raw = image.read(rva + index * layout.size, layout.size)
        if raw is None:
            _tell_missing(image, rva)
            return
        yield layout.unpack(raw)


def _tell_missing(image: Image, rva: int) -> None:
    """Say once that a table is not in memory, unless it lies where that is to be expected."""
    discarded = any(part.discardable and part.rva <= rva < part.rva + part.size for part in image.sections)
    warning = f"{image.module.name}: import table at 0x{rva:x} is not in memory"
    if not discarded and warning not in image.warnings:
        image.warnings.append(warning)


def _iter_slots(image: Image, library: _Library, limit: int) -> Iterator[ImportSlot]:
    """The slots of a library up to the zero that ends its lookup table."""
    width = image.machine.pointer_size
    by_ordinal = 1 << (8 * width - 1)
    for index, entry in enumerate(_iter_lookup_entries(image, library.lookup_rva, width, limit)):
        name: Optional[str] = None
        ordinal: Optional[int] = None
        if entry & by_ordinal and entry < by_ordinal + 0x10000:
            ordinal = entry & 0xFFFF
        elif entry < image.size:
            name = image.read_text(entry + _HINT_BYTES, MAX_NAME_BYTES)
        yield ImportSlot(library.slots_rva + index * width, library.module, name, ordinal)


def _iter_lookup_entries(image: Image, rva: int, width: int, limit: int) -> Iterator[int]:
    """Entries of a lookup table up to its terminating zero, the end of what is in memory, or ``limit``."""
    layout = struct.Struct("<I" if width == 4 else "<Q")
    end = rva + limit * width
    while rva < end:
        piece_rva, piece = next(image.iter_range(rva, min(_SLOTS_A_READ * width, end - rva)), (rva, b""))
        usable = len(piece) - len(piece) % width
        if piece_rva != rva or not usable:
            return
        for (entry,) in layout.iter_unpack(piece[:usable]):
            if entry == 0:
                return
            yield entry
        rva += usable
