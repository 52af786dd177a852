"""A 64-bit kernel crash dump as a target: from the file to the kernel's memory, modules and variables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Dict, Iterator, Optional, Tuple, Type

from pykdext.errors import SymbolNotFoundError, UnsupportedDumpError
from pykdext.model import Machine, Module, TargetFacts, TypeLayout
from pykdext.targets.compressed import Progress, open_file
from pykdext.targets.containers import open_container
from pykdext.targets.debuggerdata import read_debugger_data
from pykdext.targets.dumpheader import DumpHeader, parse_header
from pykdext.targets.filebytes import FileBytes
from pykdext.targets.loader import ModuleList, read_kernel_image, read_loaded_modules, read_unloaded_modules
from pykdext.targets.paging import X64AddressSpace
from pykdext.targets.virtual import VirtualMemory

if TYPE_CHECKING:
    from types import TracebackType

_KERNEL_HALF_48 = 0xFFFF8000_00000000
_KERNEL_HALF_57 = 0xFF000000_00000000


def open_crashdump(path: str, progress: Optional[Progress] = None) -> CrashDump:
    """Open an x64 kernel dump of type 1, 5 or 6, plain or compressed with gzip or xz.

    ``progress`` is called while a compressed file is unpacked. TargetError if the file cannot be read,
    NotKernelTargetError for the dump of a process, UnsupportedDumpError for other kernel dumps, DumpFormatError for
    what is no dump or is damaged beyond use.
    """
    file = open_file(path, progress)
    try:
        return CrashDump(file)
    except BaseException:
        file.close()
        raise


class CrashDump:
    """The kernel in a crash dump: a Target, and a context manager that closes the file.

    Supported: x64 with four-level paging; complete (type 1) and bitmap dumps (types 5 and 6: kernel,
    automatic, active memory, live), truncated ones too. Variables are known as far as the kernel's debugger
    data names them; layouts of structures are not.
    """

    def __init__(self, file: FileBytes) -> None:
        self._file = file
        self._header = parse_header(file)
        _refuse_five_levels(file.path, self._header)
        self._container = open_container(file, self._header)
        space = X64AddressSpace(self._container, self._header.directory_table_base)
        self._memory = VirtualMemory(self._container, space)
        self._warnings = file.warnings + self._container.warnings
        if self._header.is_incomplete:
            self._warnings += ("the system had too little room for the dump: it is incomplete",)
        if not space.has_root:
            root = self._header.directory_table_base
            self._warnings += (f"the page tables (0x{root:x}) are not in the file: no address can be read",)
        data, reason = read_debugger_data(self._memory, self._header.debugger_data_block)
        if reason is not None:
            self._warnings += (reason,)
        self._symbols = {**_header_symbols(self._header), **(data.variables if data else {})}
        self._kernel_base = data.kernel_base if data else None
        self._modules: Optional[Tuple[Module, ...]] = None

    @property
    def machine(self) -> Machine:
        """Always x64."""
        return Machine.X64

    @property
    def pointer_size(self) -> int:
        """Bytes of a kernel pointer."""
        return Machine.X64.pointer_size

    @property
    def facts(self) -> TargetFacts:
        """What the dump says of itself. Its warnings grow by what ``modules`` finds wrong."""
        return TargetFacts(
            kind=self._header.kind,
            machine=Machine.X64,
            build=self._header.build,
            processors=self._header.processors,
            bugcheck=self._header.bugcheck,
            taken_at=self._header.taken_at,
            uptime_seconds=self._header.uptime_seconds,
            pages_present=self._container.present_pages,
            pages_expected=self._container.pages_expected,
            warnings=self._warnings,
        )

    @property
    def kernel_base(self) -> Optional[int]:
        """Where nt is loaded, as the kernel's debugger data says; None where that is not in the dump."""
        return self._kernel_base

    def read_virtual(self, address: int, size: int) -> bytes:
        """All ``size`` bytes at a kernel virtual address, or MemoryReadError."""
        return self._memory.read(address, size)

    def read_present(self, address: int, size: int) -> Iterator[Tuple[int, bytes]]:
        """The parts of a range that are in the dump, as ``(address, bytes)``, ascending and disjoint."""
        return self._memory.read_present(address, size)

    def modules(self) -> Tuple[Module, ...]:
        """Loaded images in load order, nt first, then the unloaded drivers that the kernel remembers."""
        if self._modules is None:
            self._modules = ()
            head = self._symbols.get("PsLoadedModuleList")
            if head is None:
                self._warnings += ("nothing tells where the list of loaded modules is",)
            else:
                self._add_modules(read_loaded_modules(self._memory, head, self._header.build))
            self._add_lost_kernel()
            unloaded = self._symbols.get("MmUnloadedDrivers")
            if unloaded is not None:
                self._add_modules(read_unloaded_modules(self._memory, unloaded))
        return self._modules

    def _add_modules(self, found: ModuleList) -> None:
        self._modules = (self._modules or ()) + found.modules
        self._warnings += found.warnings

    def _add_lost_kernel(self) -> None:
        """Put nt first where the list lost it and the debugger data knows its base."""
        loaded = self._modules or ()
        if self._kernel_base is None or any(module.base == self._kernel_base for module in loaded):
            return
        kernel = read_kernel_image(self._memory, self._kernel_base)
        if kernel is not None:
            self._modules = (kernel, *loaded)
            self._warnings += ("nt is not in the list of loaded modules: the debugger data tells where it is",)

    def symbol(self, name: str) -> int:
        """Address of a kernel variable that debugger data or header name, else SymbolNotFoundError."""
        try:
            return self._symbols[name]
        except KeyError:
            raise SymbolNotFoundError(name, "the dump itself names few variables") from None

    def field_layout(self, type_name: str) -> TypeLayout:
        """SymbolNotFoundError always: a dump does not describe structures."""
        raise SymbolNotFoundError(type_name, "a dump does not describe structures")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> CrashDump:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.close()


def _header_symbols(header: DumpHeader) -> Dict[str, int]:
    """The kernel variables whose addresses the dump's header holds."""
    addresses = {
        "KdDebuggerDataBlock": header.debugger_data_block,
        "PsLoadedModuleList": header.loaded_module_list,
        "PsActiveProcessHead": header.active_process_head,
    }
    return {name: address for name, address in addresses.items() if address is not None}


def _refuse_five_levels(path: str, header: DumpHeader) -> None:
    """Raise for a kernel that lies in the 57-bit half only: its page tables have five levels."""
    for offset, address in ((0x20, header.loaded_module_list), (0x80, header.debugger_data_block)):
        if address is not None and _KERNEL_HALF_57 <= address < _KERNEL_HALF_48:
            raise UnsupportedDumpError(
                path, offset, f"a kernel at 0x{address:x}: five-level paging (LA57)", "four-level paging"
            )
