"""Recognises kernels with five levels of page tables (LA57), which are not read."""

from __future__ import annotations

from struct import Struct

from pykdext.errors import MemoryReadError, UnsupportedDumpError
from pykdext.model import Machine
from pykdext.targets.dump.facts import KernelFacts
from pykdext.targets.kernelformat import KERNEL64
from pykdext.targets.loader import is_list_head
from pykdext.targets.paging.addressspace import AddressSpace
from pykdext.targets.paging.modes import X64
from pykdext.targets.paging.virtual import VirtualMemory
from pykdext.targets.protocol import PhysicalMemory

_KERNEL_HALF_57 = 0xFF000000_00000000

_ENTRY = Struct("<Q")
_LAST_ENTRY = 511 * _ENTRY.size
"""In a top table of five levels: the entry of all addresses that four levels can reach in the kernel's half."""

_LIST_OFFSET = 0x20
_DEBUGGER_DATA_OFFSET = 0x80


def refuse_five_levels(path: str, facts: KernelFacts, memory: PhysicalMemory) -> None:
    """Raise UnsupportedDumpError for an x64 kernel whose page tables have five levels.

    Either it lies where only they reach, or its list of modules is where they lead and four levels do not.
    """
    if facts.machine is not Machine.X64:
        return
    modules, data = facts.loaded_module_list, facts.debugger_data_block
    for offset, address in ((_LIST_OFFSET, modules), (_DEBUGGER_DATA_OFFSET, data)):
        if address is not None and _KERNEL_HALF_57 <= address < Machine.X64.kernel_start:
            raise _five_levels(path, offset, address)
    if modules is None or _is_list_head(memory, facts.directory_table_base, modules):
        return
    try:
        top_table = facts.directory_table_base & X64.root_mask
        fourth_level: int = _ENTRY.unpack(memory.read_physical(top_table + _LAST_ENTRY, _ENTRY.size))[0]
    except MemoryReadError:
        return
    if fourth_level & 1 and _is_list_head(memory, fourth_level, modules):
        raise _five_levels(path, _LIST_OFFSET, modules)


def _is_list_head(memory: PhysicalMemory, directory_table_base: int, address: int) -> bool:
    """Whether a list begins at ``address``, seen through four levels of tables."""
    space = AddressSpace(X64, memory, directory_table_base)
    return is_list_head(VirtualMemory(memory, space), KERNEL64, address)


def _five_levels(path: str, offset: int, address: int) -> UnsupportedDumpError:
    return UnsupportedDumpError(
        path, offset, f"a kernel at 0x{address:x}: five-level paging (LA57)", "four-level paging"
    )
