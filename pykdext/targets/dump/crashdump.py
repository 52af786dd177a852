"""A crash dump or an image of memory as a target: from the file to the kernel's memory, modules and variables."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Callable, Iterator, Optional, Tuple, Union

from pykdext.errors import MemoryReadError
from pykdext.model import BugCheck, Module, TargetFacts
from pykdext.targets.debuggerdata import DebuggerData, DebuggerDataKeys, read_debugger_data
from pykdext.targets.dump.base import DumpTarget
from pykdext.targets.dump.compressed import Progress, open_file
from pykdext.targets.dump.containers import open_container
from pykdext.targets.dump.facts import KernelFacts
from pykdext.targets.dump.fivelevels import has_five_levels
from pykdext.targets.dump.header import DUMP_SIGNATURES, TRIAGE_DUMP, parse_header
from pykdext.targets.dump.pageplaces import MovedPages
from pykdext.targets.dump.pages import PagesInFile
from pykdext.targets.filebytes import FileBytes
from pykdext.targets.kernelformat import choose_kernel_format
from pykdext.targets.loader import ModuleList, read_kernel_image, read_loaded_modules, read_unloaded_modules
from pykdext.targets.machine.shareddata import read_shared_data
from pykdext.targets.paging.addressspace import AddressSpace
from pykdext.targets.paging.modes import find_paging_mode
from pykdext.targets.paging.virtual import VirtualMemory
from pykdext.targets.parts import leave_out_zeros
from pykdext.targets.protocol import VirtualReader

if TYPE_CHECKING:
    from pykdext.targets.dump.triage import TriageDump
    from pykdext.targets.machine.memory import MachineMemory

_FIRST_BUILD_WITH_GUARDED_PTES = 6002
"""Windows Server 2008 SP2: the oldest system that was still repaired when L1TF became known (2018)."""

_MAX_SEARCHED_BYTES = 1 << 30
"""Of virtual memory whose entries are looked at: several times what all drivers of a machine take."""

_KEY_BYTES = 8


def open_crashdump(
    path: str, progress: Optional[Progress] = None, metadata_path: Optional[str] = None
) -> Union[CrashDump, TriageDump]:
    """Open a kernel dump, or the memory of a machine without one, plain or compressed.

    ``progress`` is called while a compressed file is unpacked and while memory is searched for a kernel.
    ``metadata_path``: the file that says which part of an image is which memory (VMware's .vmsn or .vmss); None: it is
    looked for beside it. TargetError if the file cannot be read, NotKernelTargetError for the dump of a process,
    UnsupportedDumpError for other kernel dumps, DumpFormatError for what holds no kernel or is damaged beyond use.
    """
    file = open_file(path, progress)
    try:
        if file.read_at(0, len(DUMP_SIGNATURES[0])) not in DUMP_SIGNATURES:
            from pykdext.targets.machine.containers import open_machine_image  # no dump needs the readers of images
            from pykdext.targets.machine.discovery import find_kernel

            image = open_machine_image(file, metadata_path)
            if image is not None:
                found = find_kernel(file, image, progress)
                return CrashDump(file, found.facts, found.memory, zeros_are_absent=found.memory.is_padded)
        header = parse_header(file)
        if header.dump_type == TRIAGE_DUMP:
            from pykdext.targets.dump.triage import open_triage

            return open_triage(file, header)
        container = open_container(file, header)
        return CrashDump(file, header.facts, container)
    except BaseException:
        file.close()
        raise


class CrashDump(DumpTarget):
    """The kernel in a crash dump or an image of memory: a Target, and a context manager that closes the file.

    Supported: x86 with and without PAE, x64 with page tables of four and five levels, ARM64 with pages of 4 KiB; every
    container of physical pages, truncated ones too. Variables are known as far as the kernel's debugger data names
    them; layouts of structures are not.
    """

    def __init__(
        self,
        file: FileBytes,
        facts: KernelFacts,
        container: Union[PagesInFile, MachineMemory],
        zeros_are_absent: bool = False,
    ) -> None:
        super().__init__(file, facts)
        self._kernel = choose_kernel_format(facts.machine)
        self._container = container
        self._zeros_are_absent = zeros_are_absent
        five_levels = has_five_levels(facts, container)
        mode = find_paging_mode(facts.machine, facts.build, pae_enabled=facts.pae_enabled, five_levels=five_levels)
        self._prototypes_need_base = mode.prototypes_need_base
        self._space = AddressSpace(mode, self._container, facts.directory_table_base)
        if facts.build is not None and facts.build < _FIRST_BUILD_WITH_GUARDED_PTES:
            self._space.set_invalid_pte_mask(0)
        self._memory = VirtualMemory(self._container, self._space)
        if not self._space.has_root:
            root = facts.directory_table_base
            self._warnings += (f"the page tables (0x{root:x}) are not in the file: no address can be read",)
        self._debugger_data_block = facts.debugger_data_block
        self._take_debugger_data(*read_debugger_data(self._memory, self._kernel, self._debugger_data_block))

    def _take_debugger_data(self, data: Optional[DebuggerData], reason: Optional[str]) -> None:
        """Use what the debugger data says; ``reason``: why there is none."""
        self._debugger_data_warnings = () if reason is None else (reason,)
        self._kernel_base = data.kernel_base if data else self._known.kernel_base
        self._symbols = {**self._known.variables, **(data.variables if data else {})}
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

    def set_debugger_data_block(self, address: int) -> None:
        """Take the address of KdDebuggerDataBlock where the file does not tell it."""
        if self._debugger_data_block is None:
            self._debugger_data_block = address
            self._take_debugger_data(*read_debugger_data(self._memory, self._kernel, address))

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
        data, reason = read_debugger_data(self._memory, self._kernel, self._debugger_data_block, keys)
        if data is None:
            return False
        self._take_debugger_data(data, reason)
        return True

    def set_invalid_pte_mask(self, mask: int) -> None:
        """Take the value of MiInvalidPteMask, which only symbols find: more pages may translate than before."""
        self._space.set_invalid_pte_mask(mask)
        self._modules = self._read_modules()

    def view_process(self, directory_table_base: int) -> Optional[CrashDump]:
        """The same dump as a process sees it, with nothing to close; None: its top page table is not in the file."""
        space = self._space.with_root(directory_table_base)
        if not space.has_root:
            return None
        view = copy(self)
        view._space = space
        view._memory = VirtualMemory(self._container, space)
        return view

    def find_physical(self, address: int) -> Optional[int]:
        """The physical address of a virtual one; None if it does not translate, or to a page of zeros."""
        physical = self._space.translate(address)
        return physical if physical is not None and physical >= 0 else None

    @property
    def has_uncertain_places(self) -> bool:
        """Whether a wrong bit in the file's map leaves open where some pages stand."""
        return isinstance(self._container, MovedPages) and self._container.uncertain_pages > 0

    def prove_places(self, check: Callable[[VirtualReader], bool]) -> bool:
        """Take for true what must be, that ``check`` is; whether more pages can be read by that."""
        if not isinstance(self._container, MovedPages) or not self._container.prove(check):
            return False
        self._space.forget_tables()
        self._take_debugger_data(*read_debugger_data(self._memory, self._kernel, self._debugger_data_block))
        return True

    @property
    def facts(self) -> TargetFacts:
        """What the dump says of itself. Its warnings may grow while memory is read."""
        facts = self._facts(
            self._container.warnings + self._warnings + self._debugger_data_warnings + self._modules.warnings,
            self._container.present_pages,
            self._container.pages_expected,
        )
        if facts.image is not None:
            return replace(facts, bugcheck=self._read_bugcheck())
        shared = read_shared_data(self._memory, self.pointer_size)
        return facts if shared is None else replace(facts, boot_id=shared.boot_id)

    def _read_bugcheck(self) -> Optional[BugCheck]:
        """The stop code in KiBugCheckData, of a system that was imaged at its blue screen."""
        address = self._symbols.get("KiBugcheckData")
        width = self.pointer_size
        try:
            data = b"" if address is None else self._memory.read(address, 5 * width)
        except MemoryReadError:
            return None
        code, *parameters = (int.from_bytes(data[at : at + width], "little") for at in range(0, 5 * width, width))
        return BugCheck(code & 0xFFFFFFFF, tuple(parameters)) if code else None

    def read_virtual(self, address: int, size: int) -> bytes:
        """All ``size`` bytes at a kernel virtual address, or MemoryReadError."""
        return self._memory.read(address, size)

    def read_present(self, address: int, size: int) -> Iterator[Tuple[int, bytes]]:
        """The parts of a range that are in the dump, as ``(address, bytes)``, ascending and disjoint."""
        present = self._memory.read_present(address, size)
        return leave_out_zeros(present) if self._zeros_are_absent else present

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
        return read_loaded_modules(self._memory, self._kernel, head, self._known.build)

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
