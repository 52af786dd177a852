"""The kernel's debugger data block (KDDEBUGGER_DATA64): addresses of kernel variables without any symbols."""

from __future__ import annotations

from typing import Dict, NamedTuple, Optional, Tuple

from pykdext.errors import MemoryReadError
from pykdext.targets.dumpformat import (
    KDDEBUGGER_DATA64_HEADER,
    KDDEBUGGER_DATA64_MAX_BYTES,
    KDDEBUGGER_DATA64_MIN_BYTES,
    KDDEBUGGER_DATA64_VARIABLES,
)
from pykdext.targets.virtual import VirtualMemory


class DebuggerData(NamedTuple):
    """What the debugger data block says: where nt is loaded (None: not said), and where its variables are."""

    kernel_base: Optional[int]
    variables: Dict[str, int]


def read_debugger_data(memory: VirtualMemory, address: Optional[int]) -> Tuple[Optional[DebuggerData], Optional[str]]:
    """The block at ``address``, or None and the reason.

    Since Windows 8 the block is encoded while the machine runs; a bug check decodes it. A dump taken by other
    means may hold it encoded, and its key is a symbol: such a block counts as absent. Members that are zero
    count as absent too: newer kernels moved many variables elsewhere.
    """
    if address is None:
        return None, "the dump's header does not tell where the kernel's debugger data is"
    header_bytes = KDDEBUGGER_DATA64_HEADER.sizeof()
    try:
        header = KDDEBUGGER_DATA64_HEADER.parse(memory.read(address, header_bytes))
        if header.OwnerTag != b"KDBG":
            return None, f"the kernel's debugger data at 0x{address:x} is encoded or damaged (no KDBG tag)"
        if not KDDEBUGGER_DATA64_MIN_BYTES <= header.Size <= KDDEBUGGER_DATA64_MAX_BYTES:
            return None, f"the kernel's debugger data at 0x{address:x} is damaged (size 0x{header.Size:x})"
        data = memory.read(address, header.Size)
    except MemoryReadError:
        return None, f"the kernel's debugger data at 0x{address:x} is not in the dump"
    members = KDDEBUGGER_DATA64_VARIABLES.parse(data)
    variables = {name: value for name, value in members.items() if isinstance(value, int) and value}
    return DebuggerData(header.KernBase or None, variables), None
