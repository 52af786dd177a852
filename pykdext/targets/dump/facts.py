"""What must be known of a kernel before its memory can be read, whoever tells it: a dump's header is one source."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Dict, Optional, Tuple

from pykdext.model import BugCheck, Machine, MemoryImage


@dataclass(frozen=True)
class KernelFacts:
    """The kernel and its system. None: not known.

    Attributes:
        kind: of the source, in words a user knows.
        machine: the architecture; ``pae_enabled``: its page tables have PAE's form (x86 only).
        directory_table_base: physical address of the top page table, with whatever flags it carries.
        debugger_data_block, loaded_module_list, active_process_head: addresses of the kernel's variables.
        boot_id: the same in all memory of one boot; None: not told, or to be read from memory.
        kernel_pdb: file name, GUID and age of the kernel's PDB, where its image cannot tell.
        image: what is told of a memory that nobody dumped; None for a crash dump.
        is_live: it was taken while the system ran. left_out: what such a dump lacks by design, in words; empty: nothing
            is known to be left out.
        warnings: what a reader of reports must know.
    """

    kind: str
    machine: Machine
    directory_table_base: int
    pae_enabled: bool = False
    build: Optional[int] = None
    processors: Optional[int] = None
    bugcheck: Optional[BugCheck] = None
    taken_at: Optional[datetime] = None
    uptime_seconds: Optional[float] = None
    debugger_data_block: Optional[int] = None
    loaded_module_list: Optional[int] = None
    active_process_head: Optional[int] = None
    kernel_base: Optional[int] = None
    boot_id: Optional[int] = None
    kernel_pdb: Optional[Tuple[str, str, int]] = None
    image: Optional[MemoryImage] = None
    is_live: bool = False
    left_out: str = ""
    warnings: Tuple[str, ...] = ()

    @property
    def variables(self) -> Dict[str, int]:
        """Addresses of kernel variables, by their names."""
        addresses = {
            "KdDebuggerDataBlock": self.debugger_data_block,
            "PsLoadedModuleList": self.loaded_module_list,
            "PsActiveProcessHead": self.active_process_head,
        }
        return {name: address for name, address in addresses.items() if address is not None}
