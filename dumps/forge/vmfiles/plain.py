"""Raw images, LiME images, and Xen cores."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Dict, List, Optional, Tuple

from dumps.forge.machine import ForgedMachine
from dumps.forge.physical import PAGE_BYTES
from dumps.forge.vmfiles.pages import ram_pages, ram_ranges, write_range


def save_raw(machine: ForgedMachine, path: Path, *, concatenated: bool = False) -> None:
    """Write memory byte by byte; ``concatenated`` leaves the hole out, as some tools do."""
    pages = ram_pages(machine)
    with open(path, "wb") as file:
        at = 0
        for first, count in ram_ranges(machine):
            write_range(file, at if concatenated else first * PAGE_BYTES, pages, first, count)
            at += count * PAGE_BYTES


def save_lime(machine: ForgedMachine, path: Path, ranges: Optional[List[Tuple[int, int]]] = None) -> None:
    """Write a LiME image: EMiL, version 1, first and last byte of each range."""
    pages = ram_pages(machine)
    with open(path, "wb") as file:
        at = 0
        for first, count in ranges or ram_ranges(machine):
            file.seek(at)
            file.write(struct.pack("<IIQQ8x", 0x4C694D45, 1, first * PAGE_BYTES, (first + count) * PAGE_BYTES - 1))
            write_range(file, at + 0x20, pages, first, count)
            at += 0x20 + count * PAGE_BYTES


def save_xen(machine: ForgedMachine, path: Path) -> None:
    """Write an ELF file of sections only: names, notes, page numbers, pages."""
    pages: Dict[int, bytes] = ram_pages(machine)
    numbers = list(pages)
    names = b"\0.shstrtab\0.xen_pfn\0.xen_pages\0"
    names_at, list_at = 0x40, 0x100
    pages_at = -(-(list_at + 8 * len(numbers)) // PAGE_BYTES) * PAGE_BYTES
    sections_at = pages_at + len(numbers) * PAGE_BYTES
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header += struct.pack("<HHIQQQIHHHHHH", 4, 0x3E, 1, 0, 0, sections_at, 0, 0x40, 0, 0, 0x40, 4, 1)
    with open(path, "wb") as file:
        file.write(header + names)
        file.seek(list_at)
        file.write(struct.pack(f"<{len(numbers)}Q", *numbers))
        file.seek(pages_at)
        for data in pages.values():
            file.write(data)
        file.write(bytes(0x40))
        for name, kind, at, size in (
            (1, 3, names_at, len(names)),
            (11, 1, list_at, 8 * len(numbers)),
            (20, 1, pages_at, len(numbers) * PAGE_BYTES),
        ):
            file.write(struct.pack("<IIQQQQIIQQ", name, kind, 0, 0, at, size, 0, 0, 1, 0))
