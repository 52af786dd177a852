"""Processor registers as debuggers find them: CONTEXT (WDK documentation) and KSPECIAL_REGISTERS (public symbols)."""

from __future__ import annotations

import struct
from typing import Tuple

from dumps.forge.architectures import Architecture
from dumps.forge.descriptors import SELECTORS

_MXCSR = 0x1F80
_CR0 = 0x80050031  # paging on, protected mode
_TABLE_1_OFFSET = 0x800  # ARM64: the kernel's half of the top table


def pack_context(
    architecture: Architecture, instruction_pointer: int, stack_pointer: int, arguments: Tuple[int, ...]
) -> bytes:
    """Return the CONTEXT of kernel code at the start of a function.

    ``arguments`` are the function's; those that do not fit into registers, all on x86, are left out.
    """
    pack = {"x64": _pack_x64, "x86": _pack_x86, "arm64": _pack_arm64}[architecture.family]
    return pack(instruction_pointer, stack_pointer, arguments)


def pack_special_registers(architecture: Architecture, root_address: int, table_va: int, table_bytes: int) -> bytes:
    """Return the control registers: the page tables, and the segment descriptors at ``table_va`` if there are any.

    Of ARM64, whose structure has no public symbols, both bases of translation stand where real dumps have them.
    """
    if architecture.family == "arm64":
        return struct.pack("<200xQQ", root_address, root_address + _TABLE_1_OFFSET)
    task_selector = SELECTORS[architecture.family][7]
    if architecture.narrow:
        registers = bytearray(0x54)
        struct.pack_into("<I4xI", registers, 0, _CR0, root_address)
        struct.pack_into("<HI", registers, 0x2A, table_bytes - 1, table_va)
        struct.pack_into("<H", registers, 0x38, task_selector)
    else:
        registers = bytearray(0xE0)
        struct.pack_into("<Q8xQ", registers, 0, _CR0, root_address)
        struct.pack_into("<HQ", registers, 0x56, table_bytes - 1, table_va)
        struct.pack_into("<HHI", registers, 0x70, task_selector, 0, _MXCSR)
    return bytes(registers)


def _pack_x64(instruction_pointer: int, stack_pointer: int, arguments: Tuple[int, ...]) -> bytes:
    context = bytearray(0x4D0)
    struct.pack_into("<II", context, 0x30, 0x10001F, _MXCSR)
    struct.pack_into("<6HI", context, 0x38, 0x10, 0x2B, 0x2B, 0x53, 0x2B, 0x18, 0x286)
    struct.pack_into("<Q", context, 0x98, stack_pointer)
    struct.pack_into("<Q", context, 0xF8, instruction_pointer)
    for offset, argument in zip((0x80, 0x88, 0xB8, 0xC0), arguments):  # rcx, rdx, r8, r9
        struct.pack_into("<Q", context, offset, argument)
    struct.pack_into("<I", context, 0x118, _MXCSR)
    return bytes(context)


def _pack_x86(instruction_pointer: int, stack_pointer: int, _: Tuple[int, ...]) -> bytes:
    context = bytearray(0x2CC)
    struct.pack_into("<I", context, 0, 0x10017)
    struct.pack_into("<4I", context, 0x8C, 0, 0x30, 0x23, 0x23)  # gs, fs, es, ds
    struct.pack_into("<III", context, 0xB8, instruction_pointer, 0x8, 0x286)
    struct.pack_into("<II", context, 0xC4, stack_pointer, 0x10)  # esp, ss
    return bytes(context)


def _pack_arm64(instruction_pointer: int, stack_pointer: int, arguments: Tuple[int, ...]) -> bytes:
    context = bytearray(0x390)
    struct.pack_into("<II", context, 0, 0x400007, 0x60000004)  # processor state: EL1
    struct.pack_into(f"<{len(arguments)}Q", context, 8, *arguments)  # x0 and the next
    struct.pack_into("<QQ", context, 0x100, stack_pointer, instruction_pointer)
    return bytes(context)
