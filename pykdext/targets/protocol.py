"""What every source of kernel memory offers, and what every container of physical pages offers."""

from __future__ import annotations

from typing import Callable, Iterator, Optional, Protocol, Tuple, runtime_checkable

from pykdext.model import Machine, Module, TargetFacts, TypeLayout

PAGE_BYTES = 0x1000


class Target(Protocol):
    """A kernel whose memory can be read: a debugger session, a crash dump, or segments in a test."""

    @property
    def pointer_size(self) -> int:
        """Bytes of a kernel pointer: 4 or 8."""

    @property
    def machine(self) -> Machine:
        """The architecture of the kernel."""

    @property
    def facts(self) -> TargetFacts:
        """What the target says of itself."""

    def read_virtual(self, address: int, size: int) -> bytes:
        """All ``size`` bytes at a kernel virtual address, or MemoryReadError. No partial answers."""

    def read_present(self, address: int, size: int) -> Iterator[Tuple[int, bytes]]:
        """The readable parts of a range, as ``(address, bytes)``, ascending and disjoint; never raises."""

    def modules(self) -> Tuple[Module, ...]:
        """Loaded images, nt first, then remembered ones (``unloaded`` true). Empty if unreadable."""

    def symbol(self, name: str) -> int:
        """Address of a kernel variable (``PoolTrackTable``) that the target knows, else SymbolNotFoundError."""

    def field_layout(self, type_name: str) -> TypeLayout:
        """Layout of a structure (``_POOL_TRACKER_TABLE``) that the target knows, else SymbolNotFoundError."""


class VirtualReader(Protocol):
    """The part of a target's memory that single structures are read with."""

    def read(self, address: int, size: int) -> bytes:
        """All ``size`` bytes at a kernel virtual address, or MemoryReadError."""


@runtime_checkable
class AddressNamer(Protocol):
    """A target that has symbols of all modules by itself."""

    def find_name(self, address: int) -> Optional[Tuple[str, int]]:
        """The symbol at an address or next before it, without its module, and the bytes from there; None without one.

        It may be that of a module's export, far before the address.
        """


@runtime_checkable
class ProcessViewer(Protocol):
    """A target that follows page tables by itself, those of any process."""

    def view_process(self, directory_table_base: int) -> Optional[Target]:
        """The same target as a process sees it; None where its top page table is not in memory."""


@runtime_checkable
class SymbolTaker(Protocol):
    """A target that reads page tables and debugger data by itself, and reads more once symbols are known.

    What it said before (modules, symbols, warnings) may change by that: ask again.
    """

    def decode_debugger_data(self, flag_address: int, wait_never_address: int, wait_always_address: int) -> bool:
        """Read the kernel's debugger data if it is encoded; whether that told anything new.

        The addresses are those of KdpDataBlockEncoded, KiWaitNever and KiWaitAlways.
        """

    def set_debugger_data_block(self, address: int) -> None:
        """Take the address of KdDebuggerDataBlock, for a file that does not tell it."""

    def set_invalid_pte_mask(self, mask: int) -> None:
        """Take the value of MiInvalidPteMask (MiState.Hardware.InvalidPteMask in newer kernels); it may be 0."""


@runtime_checkable
class PlaceProver(Protocol):
    """A target whose file does not tell where some of its pages stand, until something is found in them."""

    @property
    def has_uncertain_places(self) -> bool:
        """Whether there are such pages: they cannot be read yet."""

    def prove_places(self, check: Callable[[VirtualReader], bool]) -> bool:
        """Take for true what must be, that ``check`` is; whether more pages can be read by that.

        ``check`` looks at the memory for what can only be there, and lets MemoryReadError pass. It may be asked of
        several assumptions.
        """


@runtime_checkable
class Translator(Protocol):
    """A target that reads page tables itself."""

    def find_physical(self, address: int) -> Optional[int]:
        """The physical address of a virtual one; None if it does not translate."""


class PhysicalMemory(Protocol):
    """The physical pages that a dump holds."""

    @property
    def present_pages(self) -> int:
        """How many pages can be read: those that the file announces less those that lie behind its end."""

    def read_physical(self, address: int, size: int) -> bytes:
        """All ``size`` bytes at a physical address, or MemoryReadError."""

    def read_present_physical(self, address: int, size: int) -> Iterator[Tuple[int, bytes]]:
        """The parts of a physical range that can be read, as ``(address, bytes)``, ascending and disjoint."""
