"""A kernel crash dump as a target: from the file to the kernel's memory, modules and variables."""

from __future__ import annotations

from typing import Iterator, Optional, Tuple, Union

from pykdext.errors import MemoryReadError
from pykdext.model import Machine, Module, TargetFacts
from pykdext.targets.debuggerdata import DebuggerData, DebuggerDataKeys, read_debugger_data
from pykdext.targets.dump.base import DumpTarget
from pykdext.targets.dump.compressed import Progress, open_file
from pykdext.targets.dump.containers import open_container
from pykdext.targets.dump.fivelevels import refuse_five_levels
from pykdext.targets.dump.header import TRIAGE_DUMP, DumpHeader, parse_header
from pykdext.targets.dump.triage import TriageDump, open_triage
from pykdext.targets.filebytes import FileBytes
from pykdext.targets.kernelformat import KERNEL32, KERNEL64
from pykdext.targets.loader import ModuleList, read_kernel_image, read_loaded_modules, read_unloaded_modules
from pykdext.targets.paging.addressspace import AddressSpace
from pykdext.targets.paging.modes import find_paging_mode
from pykdext.targets.paging.virtual import VirtualMemory

_FIRST_BUILD_WITH_GUARDED_PTES = 6002
"""Windows Server 2008 SP2: the oldest system that was still repaired when L1TF became known (2018)."""

_MAX_SEARCHED_BYTES = 1 << 30
"""Of virtual memory whose entries are looked at: several times what all drivers of a machine take."""

_KEY_BYTES = 8


def open_crashdump(path: str, progress: Optional[Progress] = None) -> Union[CrashDump, TriageDump]:
    """Open a kernel dump, plain or compressed.

    ``progress`` is called while a compressed file is unpacked. TargetError if the file cannot be read,
    NotKernelTargetError for the dump of a process, UnsupportedDumpError for other kernel dumps, DumpFormatError for
    what is no dump or is damaged beyond use.
    """
    file = open_file(path, progress)
    try:
        header = parse_header(file)
        return open_triage(file, header) if header.dump_type == TRIAGE_DUMP else CrashDump(file, header)
    except BaseException:
        file.close()
        raise


class CrashDump(DumpTarget):
    """The kernel in a crash dump: a Target, and a context manager that closes the file.

    Supported: x86 with and without PAE, x64 with four-level paging, ARM64 with pages of 4 KiB; every container of
    physical pages, truncated ones too. Variables are known as far as the kernel's debugger data names them; layouts
    of structures are not.
    """

    def __init__(self, file: FileBytes, header: DumpHeader) -> None:
        super().__init__(file, header)
        self._kernel = KERNEL32 if header.machine is Machine.X86 else KERNEL64
        self._container = open_container(file, header)
        refuse_five_levels(file.path, header, self._container)
        mode = find_paging_mode(header.machine, header.build, pae_enabled=header.pae_enabled)
        self._prototypes_need_base = mode.prototypes_need_base
        self._space = AddressSpace(mode, self._container, header.directory_table_base)
        if header.build is not None and header.build < _FIRST_BUILD_WITH_GUARDED_PTES:
            self._space.set_invalid_pte_mask(0)
        self._memory = VirtualMemory(self._container, self._space)
        if not self._space.has_root:
            root = header.directory_table_base
            self._warnings += (f"the page tables (0x{root:x}) are not in the file: no address can be read",)
        self._take_debugger_data(*read_debugger_data(self._memory, self._kernel, header.debugger_data_block))

    def _take_debugger_data(self, data: Optional[DebuggerData], reason: Optional[str]) -> None:
        """Use what the debugger data says; ``reason``: why there is none."""
        self._debugger_data_warnings = () if reason is None else (reason,)
        self._kernel_base = data.kernel_base if data else None
        self._symbols = {**self._header.variables, **(data.variables if data else {})}
        paged_pool_start = self._find_value("MmPagedPoolStart") if self._prototypes_need_base else None
        if paged_pool_start is not None:
            self._space.set_prototype_base(paged_pool_start)
        self._modules = self._read_modules()

    def _find_value(self, name: str) -> Optional[int]:
        """The value of a pointer-sized variable; None if its address is not known or it is not in the dump."""
        address = self._symbols.get(name)
        if address is None:
            return None
        try:
            return int.from_bytes(self._memory.read(address, self.pointer_size), "little")
        except MemoryReadError:
            return None

    def decode_debugger_data(self, flag_address: int, wait_never_address: int, wait_always_address: int) -> bool:
        """Read the kernel's debugger data if it is encoded; whether that told anything new.

        The addresses are those of KdpDataBlockEncoded, KiWaitNever and KiWaitAlways, which only symbols know. Only
        64-bit kernels encode. Then ``symbol``, ``kernel_base``, ``modules`` and the warnings may say more than before.
        """
        if not self._debugger_data_warnings or self.pointer_size == 4:
            return False
        try:
            wait_never, wait_always = (
                int.from_bytes(self._memory.read(address, _KEY_BYTES), "little")
                for address in (wait_never_address, wait_always_address)
            )
        except MemoryReadError:
            return False
        keys = DebuggerDataKeys(wait_never, wait_always, flag_address)
        data, reason = read_debugger_data(self._memory, self._kernel, self._header.debugger_data_block, keys)
        if data is None:
            return False
        self._take_debugger_data(data, reason)
        return True

    def set_invalid_pte_mask(self, mask: int) -> None:
        """Take the value of MiInvalidPteMask, which only symbols find: more pages may translate than before."""
        self._space.set_invalid_pte_mask(mask)
        self._modules = self._read_modules()

    @property
    def facts(self) -> TargetFacts:
        """What the dump says of itself. Its warnings may grow while memory is read."""
        return self._facts(
            self._container.warnings + self._warnings + self._debugger_data_warnings + self._modules.warnings,
            self._container.present_pages,
            self._container.pages_expected,
        )

    def read_virtual(self, address: int, size: int) -> bytes:
        """All ``size`` bytes at a kernel virtual address, or MemoryReadError."""
        return self._memory.read(address, size)

    def read_present(self, address: int, size: int) -> Iterator[Tuple[int, bytes]]:
        """The parts of a range that are in the dump, as ``(address, bytes)``, ascending and disjoint."""
        return self._memory.read_present(address, size)

    def modules(self) -> Tuple[Module, ...]:
        """Loaded images in load order, nt first, then the unloaded drivers that the kernel remembers."""
        return self._modules.modules

    def _read_modules(self) -> ModuleList:
        loaded = self._find_kernel(self._read_loaded_modules())
        self._learn_invalid_pte_mask(loaded)
        unloaded = self._read_unloaded_modules()
        return ModuleList(loaded.modules + unloaded.modules, loaded.warnings + unloaded.warnings)

    def _learn_invalid_pte_mask(self, loaded: ModuleList) -> None:
        """Find out from the drivers' paged-out code how this kernel marks entries that are not valid."""
        room_bytes = _MAX_SEARCHED_BYTES
        for module in loaded.modules:
            if room_bytes <= 0 or self._space.learn_invalid_pte_mask(module.base, min(module.size, room_bytes)):
                return
            room_bytes -= module.size

    def _read_loaded_modules(self) -> ModuleList:
        head = self._symbols.get("PsLoadedModuleList")
        if head is None:
            return ModuleList((), ("nothing tells where the list of loaded modules is",))
        return read_loaded_modules(self._memory, self._kernel, head, self._header.build)

    def _find_kernel(self, loaded: ModuleList) -> ModuleList:
        """Put nt first where the list lost it and the debugger data knows its base."""
        if self._kernel_base is None or any(module.base == self._kernel_base for module in loaded.modules):
            return loaded
        kernel = read_kernel_image(self._memory, self._kernel_base)
        if kernel is None:
            return loaded
        warning = "nt is not in the list of loaded modules: the debugger data tells where it is"
        return ModuleList((kernel, *loaded.modules), (*loaded.warnings, warning))

    def _read_unloaded_modules(self) -> ModuleList:
        variable = self._symbols.get("MmUnloadedDrivers")
        if variable is None:
            return ModuleList((), ())
        return read_unloaded_modules(self._memory, self._kernel, variable)
