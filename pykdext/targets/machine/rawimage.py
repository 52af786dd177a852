"""Raw images: memory byte by byte, as pmemsave, winpmem, DumpIt or VMware's .vmem hold it.

Nothing in such a file tells what it is. Holes and pages that could not be read stand in it as zeros.
"""

from __future__ import annotations

from typing import List, Optional

from pykdext.targets.filebytes import FileBytes
from pykdext.targets.machine.image import MachineImage
from pykdext.targets.machine.memory import FileRanges, MemoryRange
from pykdext.targets.machine.vmware import HOLE_START, MEMORY_SUFFIX, assume_regions, find_companion, open_vmware_memory
from pykdext.targets.machine.vmware import WINDBG_HINT as VMWARE_HINT
from pykdext.targets.protocol import PAGE_BYTES
from pykdext.units import count_things

MIN_RAW_BYTES = 16 << 20
"""No Windows runs in less: a smaller file is something else."""

WINDBG_HINT = "WinDbg does not open a raw image; MemProcFS shows it as memory.dmp, which WinDbg opens"


def open_raw(file: FileBytes, metadata_path: Optional[str] = None) -> MachineImage:
    """The image, with the ranges of VMware's .vmsn or .vmss if that is named or stands beside it."""
    notes: List[str] = []
    companion = find_companion(file, metadata_path, notes)
    if companion is not None:
        return open_vmware_memory(file, companion)
    if file.size % PAGE_BYTES:
        notes.append(f"the file ends within a page: its size is {count_things(file.size, 'byte')}")
    if file.path.lower().endswith(MEMORY_SUFFIX) and file.size > HOLE_START:
        notes.append(
            "no .vmsn or .vmss that fits stands beside it: memory from 3 GiB on is taken to lie above 4 GiB, "
            "as VMware does; --meta FILE names the right one"
        )
        memory = FileRanges(file, assume_regions(file.size), tuple(notes))
        return MachineImage("VMware memory image", memory, windbg_hint=VMWARE_HINT)
    memory = FileRanges(file, (MemoryRange(0, 0, file.size & -PAGE_BYTES),), tuple(notes), is_padded=True)
    return MachineImage("raw memory image", memory, windbg_hint=WINDBG_HINT, may_be_shifted=True)
