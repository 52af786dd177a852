"""Recognises kernels with five levels of page tables (LA57): no header says how many there are."""

from __future__ import annotations

from pykdext.model import Machine
from pykdext.targets.dump.facts import KernelFacts
from pykdext.targets.kernelformat import KERNEL64
from pykdext.targets.loader import is_list_head
from pykdext.targets.paging.addressspace import AddressSpace, PagingMode
from pykdext.targets.paging.modes import X64, X64_FIVE_LEVELS
from pykdext.targets.paging.virtual import VirtualMemory
from pykdext.targets.protocol import PhysicalMemory


def has_five_levels(facts: KernelFacts, memory: PhysicalMemory) -> bool:
    """Whether an x64 kernel's list of modules is where five levels of tables lead, and four do not."""
    if facts.machine is not Machine.X64 or facts.loaded_module_list is None:
        return False
    return not _is_list_seen(X64, facts, memory) and _is_list_seen(X64_FIVE_LEVELS, facts, memory)


def _is_list_seen(mode: PagingMode, facts: KernelFacts, memory: PhysicalMemory) -> bool:
    if facts.loaded_module_list is None:
        return False
    space = AddressSpace(mode, memory, facts.directory_table_base)
    return is_list_head(VirtualMemory(memory, space), KERNEL64, facts.loaded_module_list)
