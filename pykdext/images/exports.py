"""The functions that an image offers to others, by name and by place.

Layouts are those of Microsoft's "PE Format" page (export directory table, address table, name pointers, ordinals).
"""

from __future__ import annotations

import struct
from typing import Dict, List, Mapping, Optional, Tuple

from pykdext.images.image import Image
from pykdext.units import choose_form, count_things

MAX_EXPORTS = 0x10000
"""Ordinals have 16 bits."""

MAX_NAME_BYTES = 4096
"""Decorated C++ names are long."""

_EXPORT_DIRECTORY = 0
_DIRECTORY = struct.Struct("<16xIIIIII")
"""Base (first ordinal), NumberOfFunctions, NumberOfNames, AddressOfFunctions, AddressOfNames, AddressOfNameOrdinals."""


class Exports:
    """What an image exports by name. Forwarders (names that stand for another image's function) are left out.

    Attributes:
        rvas: by name. warnings: what could not be read.
    """

    def __init__(self, rvas: Mapping[str, int], warnings: Tuple[str, ...] = ()) -> None:
        self.rvas = rvas
        self.warnings = warnings
        self._names: Dict[int, str] = {}
        for name, rva in rvas.items():
            self._names.setdefault(rva, name)

    def name_at(self, rva: int) -> Optional[str]:
        """The name of what begins exactly at ``rva``; of several names the first of the table."""
        return self._names.get(rva)


def read_exports(image: Image) -> Exports:
    """The named exports, as far as they are in memory. Never fails."""
    directory_rva, directory_bytes = image.directory(_EXPORT_DIRECTORY)
    if not directory_bytes:
        return Exports({})
    raw = image.read(directory_rva, _DIRECTORY.size)
    if raw is None:
        return Exports({}, ("the export table is not in memory",))
    _, function_count, name_count, functions_rva, names_rva, ordinals_rva = _DIRECTORY.unpack(raw)
    functions = _read_numbers(image, functions_rva, function_count, "<I")
    names = _read_numbers(image, names_rva, name_count, "<I")
    ordinals = _read_numbers(image, ordinals_rva, name_count, "<H")

    rvas: Dict[str, int] = {}
    missing = 0
    directory_end = directory_rva + directory_bytes
    for name_rva, index in zip(names, ordinals):
        rva = functions[index] if name_rva and index is not None and index < len(functions) else None
        name = image.read_text(name_rva, MAX_NAME_BYTES) if name_rva else None
        if name is None or rva is None:
            missing += 1
        elif rva and not directory_rva <= rva < directory_end:  # a forwarder's RVA is that of its text
            rvas.setdefault(name, rva)
    return Exports(rvas, (_describe_missing(missing, len(names)),) if missing else ())


def _describe_missing(missing: int, names: int) -> str:
    return f"{missing} of {count_things(names, 'exported name')} {choose_form(missing, 'is', 'are')} not in memory"


def _read_numbers(image: Image, rva: int, count: int, form: str) -> List[Optional[int]]:
    """``count`` numbers at ``rva``, None for each that is not in memory."""
    layout = struct.Struct(form)
    numbers: List[Optional[int]] = [None] * min(count, MAX_EXPORTS)
    for piece_rva, piece in image.iter_range(rva, len(numbers) * layout.size):
        skipped = (rva - piece_rva) % layout.size
        usable = len(piece) - (len(piece) - skipped) % layout.size
        first = (piece_rva + skipped - rva) // layout.size
        found = [number for (number,) in layout.iter_unpack(piece[skipped:usable])]
        numbers[first : first + len(found)] = found
    return numbers
