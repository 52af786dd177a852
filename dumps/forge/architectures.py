"""The processors that forged machines have, and what follows from them in every structure."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Dict

from dumps.forge import entryformats
from dumps.forge.entryformats import EntryFormat
from dumps.forge.physical import SPAN_PAGES, VIRTUAL_SPAN_PAGES


@dataclass(frozen=True)
class Architecture:
    """One processor architecture; ``machine`` is its IMAGE_FILE_MACHINE number in headers and images.

    ``family`` names what does not depend on the page tables: code, images and structures. ``span_pages`` is where
    physical memory ends. ``is_virtual``: the machine has a hole for devices from 3 GiB to 4 GiB.
    """

    name: str
    family: str
    machine: int
    pointer_bytes: int
    entries: EntryFormat
    shared_user_data: int
    span_pages: int = SPAN_PAGES
    is_virtual: bool = False

    @property
    def narrow(self) -> bool:
        """True for 32-bit systems."""
        return self.pointer_bytes == 4

    @property
    def has_five_levels(self) -> bool:
        """True for x64 with page tables of five levels (LA57)."""
        return len(self.entries.shifts) == 5

    @property
    def pae(self) -> bool:
        """True for 32-bit systems with entries of eight bytes."""
        return self.narrow and self.entries.entry_bytes == 8

    def pack_pointers(self, *values: int) -> bytes:
        """Return addresses or SIZE_T numbers as they stand in memory."""
        return struct.pack(f"<{len(values)}{'I' if self.narrow else 'Q'}", *values)

    def widen(self, va: int) -> int:
        """Return an address as structures of 64 bits hold it: those of 32-bit systems are sign-extended."""
        return va | 0xFFFFFFFF00000000 if self.narrow else va

    def pack_unicode_string(self, text: str, buffer_va: int) -> bytes:
        """Return a UNICODE_STRING whose characters lie at ``buffer_va``."""
        length = len(text) * 2
        counts = struct.pack("<HH", length, length + 2)
        return counts.ljust(self.pointer_bytes, b"\0") + self.pack_pointers(buffer_va)


X64 = Architecture("x64", "x64", 0x8664, 8, entryformats.X64, 0xFFFFF78000000000)
X86 = Architecture("x86", "x86", 0x14C, 4, entryformats.X86, 0xFFDF0000)
X86_PAE = Architecture("x86pae", "x86", 0x14C, 4, entryformats.X86_PAE, 0xFFDF0000, 0x180000)
ARM64 = Architecture("arm64", "arm64", 0xAA64, 8, entryformats.ARM64, 0xFFFFF78000000000)

X64_LA57 = replace(X64, name="x64la57", entries=entryformats.X64_FIVE_LEVELS)
"""Five levels of page tables, as ntkrla57.exe has them."""

X64_VIRTUAL = replace(X64, span_pages=VIRTUAL_SPAN_PAGES, is_virtual=True)

ARCHITECTURES: Dict[str, Architecture] = {kind.name: kind for kind in (X64, X64_LA57, X86, X86_PAE, ARM64)}
