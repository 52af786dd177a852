"""The kernel's debugger data block (KDDEBUGGER_DATA64): addresses of kernel variables without any symbols.

Since Windows 8 the block is encoded while the machine runs; a bug check decodes it. A dump taken by other means may
hold it encoded, and only symbols tell where the keys are. The code is the one of QEMU's elf2dmp and volatility.
"""

from __future__ import annotations

from struct import iter_unpack
from typing import Dict, NamedTuple, Optional, Tuple

from pykdext.errors import MemoryReadError
from pykdext.targets.kernelformat import (
    KDDEBUGGER_DATA64_HEADER,
    KDDEBUGGER_DATA64_MAX_BYTES,
    KDDEBUGGER_DATA64_MIN_BYTES,
    KDDEBUGGER_DATA64_VARIABLES,
    KernelFormat,
)
from pykdext.targets.protocol import VirtualReader

_WORD_BYTES = 8
_WORD_BITS = 64
_WORD = (1 << _WORD_BITS) - 1
_KERNEL_ADDRESS = 0xFFFF0000_00000000


class DebuggerData(NamedTuple):
    """What the debugger data block says: where nt is loaded (None: not said), and where its variables are."""

    kernel_base: Optional[int]
    variables: Dict[str, int]


class DebuggerDataKeys(NamedTuple):
    """What an encoded block was encoded with: two secrets, and the address of the flag that says that it is."""

    wait_never: int
    wait_always: int
    flag_address: int


def read_debugger_data(
    memory: VirtualReader, kernel: KernelFormat, address: Optional[int], keys: Optional[DebuggerDataKeys] = None
) -> Tuple[Optional[DebuggerData], Optional[str]]:
    """The block at ``address``, or None and the reason. With ``keys`` it is decoded, without it must be plain."""
    if address is None:
        return None, "the dump's header does not tell where the kernel's debugger data is"
    try:
        header = KDDEBUGGER_DATA64_HEADER.declaration.parse(
            _read_plain(memory, address, KDDEBUGGER_DATA64_HEADER.size_bytes, keys)
        )
        if header.OwnerTag != b"KDBG":
            return None, f"the kernel's debugger data at 0x{address:x} is encoded or damaged (no KDBG tag)"
        if not KDDEBUGGER_DATA64_MIN_BYTES <= header.Size <= KDDEBUGGER_DATA64_MAX_BYTES:
            return None, f"the kernel's debugger data at 0x{address:x} is damaged (size 0x{header.Size:x})"
        data = _read_plain(memory, address, header.Size // _WORD_BYTES * _WORD_BYTES, keys)
    except MemoryReadError:
        return None, f"the kernel's debugger data at 0x{address:x} is not in the dump"
    return parse_debugger_data(data, kernel), None


def parse_debugger_data(data: bytes, kernel: KernelFormat) -> DebuggerData:
    """A plain block of at least KDDEBUGGER_DATA64_MIN_BYTES.

    32-bit kernels sign-extend their pointers to the block's 64 bits: only the machine's own width counts. Members that
    are zero are absent: newer kernels moved many variables elsewhere.
    """
    width = (1 << 8 * kernel.pointer_bytes) - 1
    members = KDDEBUGGER_DATA64_VARIABLES.parse(data)
    variables = {name: value & width for name, value in members.items() if isinstance(value, int) and value & width}
    kernel_base = KDDEBUGGER_DATA64_HEADER.declaration.parse(data).KernBase & width
    return DebuggerData(kernel_base or None, variables)


def decode_debugger_data(data: bytes, keys: DebuggerDataKeys) -> bytes:
    """An encoded block, or its beginning, made plain: 64-bit words, each decoded by itself."""
    turn = keys.wait_never % _WORD_BITS
    flag_address = keys.flag_address | _KERNEL_ADDRESS
    plain = bytearray()
    for (word,) in iter_unpack("<Q", data):
        mixed = word ^ keys.wait_never
        turned = (mixed << turn | mixed >> (_WORD_BITS - turn)) & _WORD
        swapped = int.from_bytes((turned ^ flag_address).to_bytes(_WORD_BYTES, "little"), "big")
        plain += (swapped ^ keys.wait_always).to_bytes(_WORD_BYTES, "little")
    return bytes(plain)


def _read_plain(memory: VirtualReader, address: int, size: int, keys: Optional[DebuggerDataKeys]) -> bytes:
    data = memory.read(address, size)
    return data if keys is None else decode_debugger_data(data, keys)
