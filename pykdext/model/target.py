"""What a target is and holds: machine, facts, modules."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Mapping, Optional, Tuple, TypeVar

from pykdext.errors import UnknownMachineError
from pykdext.units import count_things

Row = TypeVar("Row")


class Machine(enum.Enum):
    """Processor architecture, by WinDbg's words."""

    X86 = "x86"
    X64 = "x64"
    ARM64 = "arm64"

    @property
    def pointer_size(self) -> int:
        """Bytes of a pointer in the kernel."""
        return _POINTER_BYTES[self]

    @property
    def kernel_start(self) -> int:
        """The lowest address of the kernel's half of the address space (32-bit Windows without /3GB).

        x64 with five levels of page tables (LA57) begins lower than with four, which reach FFFF8000'00000000; what lies
        between is no address there.
        """
        return _KERNEL_STARTS[self]

    @property
    def address_end(self) -> int:
        """The first number that is no address any more."""
        return 1 << 8 * self.pointer_size


class MachineTable(Generic[Row]):
    """What one part of the tool knows of each processor: one row for each, looked up by ``table[machine]``.

    ``room`` names the part. A processor without a row is an UnknownMachineError, never another one's row.
    """

    def __init__(self, room: str, rows: Mapping[Machine, Row]) -> None:
        self._room = room
        self._rows = dict(rows)

    def __getitem__(self, machine: Machine) -> Row:
        try:
            return self._rows[machine]
        except KeyError:
            known = ", ".join(sorted(known.value for known in self._rows))
            raise UnknownMachineError(getattr(machine, "value", machine), self._room, known) from None


_POINTER_BYTES = {Machine.X86: 4, Machine.X64: 8, Machine.ARM64: 8}

_KERNEL_STARTS = {
    Machine.X86: 0x80000000,
    Machine.X64: 0xFF000000_00000000,
    Machine.ARM64: 0xFFFF8000_00000000,
}


@dataclass(frozen=True)
class BugCheck:
    """The stop code of a crash and its four parameters."""

    code: int
    parameters: Tuple[int, ...]


@dataclass(frozen=True)
class MemoryImage:
    """What is told of memory that was taken from outside the system, without a dump.

    ``found_by``: what led to the kernel, in words. ``windbg_hint``: how to make a file that WinDbg opens; None: WinDbg
    opens the file as it is.
    """

    found_by: str
    windbg_hint: Optional[str] = None


@dataclass(frozen=True)
class TargetFacts:
    """What a target says of itself. None: it does not say (a header field that was never filled).

    ``kind`` is in words a user knows, e.g. ``kernel bitmap dump (type 6)``. ``pages_present`` counts 4 KiB pages that
    can be read; ``pages_expected`` those that the file announces. ``no_tag_tables`` tells why a target of this kind
    never holds pool tag tables, and what to do; None: it may. ``image``: the source is no dump, but memory of a system
    that ran or hung; ``taken_at`` is then its last clock tick. ``boot_id``: the same in all memory of one boot, and
    counted up by each. ``kernel_pdb``: file name, GUID and age of the kernel's PDB, where its image cannot tell.
    ``is_live``: it was taken while the system ran. ``left_out``: what such a source lacks by design, in words.
    """

    kind: str
    machine: Machine
    build: Optional[int] = None
    processors: Optional[int] = None
    bugcheck: Optional[BugCheck] = None
    taken_at: Optional[datetime] = None
    uptime_seconds: Optional[float] = None
    pages_present: Optional[int] = None
    pages_expected: Optional[int] = None
    no_tag_tables: Optional[str] = None
    boot_id: Optional[int] = None
    kernel_pdb: Optional[Tuple[str, str, int]] = None
    image: Optional[MemoryImage] = None
    is_live: bool = False
    left_out: str = ""
    warnings: Tuple[str, ...] = ()

    @property
    def lost_pages(self) -> Optional[int]:
        """Pages that the file announces and does not hold: damage. None: it announces none."""
        if self.pages_expected is None or self.pages_present is None:
            return None
        return max(0, self.pages_expected - self.pages_present)

    @property
    def why_missing(self) -> str:
        """Whether what is not there was left out by design or is damage, as far as the source tells."""
        design = f"dumps of this kind leave out {self.left_out} by design" if self.left_out else ""
        if self.lost_pages:
            told = f"{self.lost_pages:,} of {count_things(self.pages_expected or 0, 'page')} that the file announces "
            told += "are not in it: damage"
            return f"{told}; beside that {design}" if design else told
        if self.lost_pages is None:
            return design
        whole = "every page that the file announces is in it: what is missing was paged out or left out, not damaged"
        return f"{whole}; {design}" if design else whole


@dataclass(frozen=True)
class Module:
    """A kernel image: ``name`` as the loader has it (``pippo.sys``), ``path`` its full name, addresses in bytes.

    ``timestamp`` and ``checksum`` identify the file (symbol server key: timestamp and size). ``unloaded``: it was
    there once; its addresses may still be found in memory.
    """

    name: str
    base: int
    size: int
    path: str = ""
    timestamp: Optional[int] = None
    checksum: Optional[int] = None
    unloaded: bool = False

    def __contains__(self, address: int) -> bool:
        return self.base <= address < self.base + self.size
