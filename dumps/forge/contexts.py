"""Processor registers as debuggers find them: the CONTEXT structures of x64, x86 and ARM64 (WDK documentation)."""

from __future__ import annotations

import struct

from dumps.forge.architectures import Architecture

_MXCSR = 0x1F80


def pack_context(architecture: Architecture, instruction_pointer: int) -> bytes:
    """Return the CONTEXT of kernel code at an address."""
    return {"x64": _pack_x64, "x86": _pack_x86, "arm64": _pack_arm64}[architecture.family](instruction_pointer)


def _pack_x64(instruction_pointer: int) -> bytes:
    context = bytearray(0x4D0)
    struct.pack_into("<II", context, 0x30, 0x10001F, _MXCSR)
    struct.pack_into("<6HI", context, 0x38, 0x10, 0x2B, 0x2B, 0x53, 0x2B, 0x18, 0x286)
    struct.pack_into("<Q", context, 0xF8, instruction_pointer)
    struct.pack_into("<I", context, 0x118, _MXCSR)
    return bytes(context)


def _pack_x86(instruction_pointer: int) -> bytes:
    context = bytearray(0x2CC)
    struct.pack_into("<I", context, 0, 0x10017)
    struct.pack_into("<4I", context, 0x8C, 0, 0x30, 0x23, 0x23)  # gs, fs, es, ds
    struct.pack_into("<III", context, 0xB8, instruction_pointer, 0x8, 0x286)
    struct.pack_into("<I", context, 0xC8, 0x10)  # ss
    return bytes(context)


def _pack_arm64(instruction_pointer: int) -> bytes:
    context = bytearray(0x390)
    struct.pack_into("<II", context, 0, 0x400007, 0x60000004)  # processor state: EL1
    struct.pack_into("<Q", context, 0x108, instruction_pointer)
    return bytes(context)
