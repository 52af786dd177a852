"""The threads that run while the machine stops, and the process that they belong to.

Offsets of x64 since Windows 7 from public symbol tables, of ARM64 from the debugger data block of a real dump (22000),
of 32-bit XP from the volatility overlays; the others are examples.
"""

from __future__ import annotations

from typing import Dict, NamedTuple, Tuple

from dumps.forge.kernels import KernelBuild
from dumps.forge.parts import Parts
from dumps.forge.physical import PAGE_BYTES

_PROCESS_OBJECT, _THREAD_OBJECT = 3, 6  # DISPATCHER_HEADER.Type
_RUNNING = 2
_STACK_BYTES, _NARROW_STACK_BYTES = 0x6000, 0x3000
_STACK_WORDS = 96


class ThreadLayout(NamedTuple):
    """Offsets of members of KTHREAD, in the order of the debugger data block."""

    next_processor: int
    teb: int
    kernel_stack: int
    initial_stack: int
    apc_process: int
    state: int


_LAYOUTS: Dict[str, Tuple[Tuple[int, ThreadLayout], ...]] = {  # first build, newest first
    "x64": (
        (9200, ThreadLayout(0x218, 0xF0, 0x58, 0x28, 0xB8, 0x184)),
        (0, ThreadLayout(0x7C, 0xB8, 0x38, 0x28, 0x70, 0x164)),
    ),
    "x86": (
        (3790, ThreadLayout(0x58, 0x88, 0x30, 0x28, 0x50, 0x68)),
        (0, ThreadLayout(0x12B, 0x20, 0x28, 0x18, 0x44, 0x2D)),
    ),
    "arm64": ((0, ThreadLayout(0x238, 0xE8, 0x58, 0x28, 0xB0, 0x17C)),),
}


def thread_layout(kernel: KernelBuild) -> ThreadLayout:
    """Return where the members of a kernel's threads stand."""
    return next(layout for first, layout in _LAYOUTS[kernel.architecture.family] if kernel.build >= first)


def write_process(parts: Parts) -> int:
    """Write the process whose page tables these are, and return its address; it has no PEB and no parent."""
    sizes, architecture = parts.kernel.sizes, parts.kernel.architecture
    process = bytearray(sizes.eprocess)
    process[0] = _PROCESS_OBJECT
    _put(process, sizes.process_root, architecture.pack_pointers(parts.space.root_address))
    va = parts.regions.nonpaged.take(len(process), alignment=0x10)
    parts.space.store(va, bytes(process))
    parts.addresses["process"] = va
    return va


def write_thread(parts: Parts, processor: int, process_va: int, return_addresses: Tuple[int, ...]) -> Tuple[int, int]:
    """Write the thread that runs on a processor; return its address and its stack pointer.

    The top of its stack holds ``return_addresses`` again and again.
    """
    architecture, layout = parts.kernel.architecture, thread_layout(parts.kernel)
    base_va, stack_va = _write_stack(parts, return_addresses)
    thread = bytearray(parts.kernel.sizes.ethread)
    thread[0] = _THREAD_OBJECT
    thread[layout.state] = _RUNNING
    thread[layout.next_processor] = processor
    _put(thread, layout.initial_stack, architecture.pack_pointers(base_va))
    _put(thread, layout.kernel_stack, architecture.pack_pointers(stack_va))
    _put(thread, layout.apc_process, architecture.pack_pointers(process_va))
    va = parts.regions.nonpaged.take(len(thread), alignment=0x10)
    parts.space.store(va, bytes(thread))
    parts.addresses[f"thread:{processor}"], parts.addresses[f"stack:{processor}"] = va, stack_va
    return va, stack_va


def _write_stack(parts: Parts, return_addresses: Tuple[int, ...]) -> Tuple[int, int]:
    """Return the end of a new stack, on a page's boundary, and its pointer; only the last page of it exists."""
    stack_bytes = _NARROW_STACK_BYTES if parts.kernel.architecture.narrow else _STACK_BYTES
    base_va = parts.regions.processors.take(stack_bytes, gap=PAGE_BYTES) + stack_bytes
    words = parts.kernel.architecture.pack_pointers(*(return_addresses * _STACK_WORDS)[:_STACK_WORDS])
    parts.space.store(base_va - PAGE_BYTES, words.rjust(PAGE_BYTES, b"\0"))
    return base_va, base_va - len(words)


def _put(data: bytearray, offset: int, piece: bytes) -> None:
    data[offset : offset + len(piece)] = piece
