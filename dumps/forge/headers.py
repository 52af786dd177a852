"""DUMP_HEADER64, the first 2000h bytes of a 64-bit kernel dump (layout from kdmp-parser, QEMU and the SDK's names).

The kernel first fills the header with the text PAGE; what it leaves so is absent.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import List, Optional, Tuple

HEADER_BYTES = 0x2000
MAXIMUM_RUNS = 42

Run = Tuple[int, int]  # first page frame, pages

_CONTEXT_BYTES = 0x4D0
_BUGCHECK_STATUS = 0x80000003
_MXCSR = 0x1F80


@dataclass
class DumpHeader:
    """The header's fields, in the order of the file; None leaves a field filled with PAGE."""

    build: int
    directory_table_base: int
    pfn_database: int
    loaded_module_list: int
    active_process_head: int
    processors: int
    bugcheck: Tuple[int, int, int, int, int]
    debugger_data_block: int
    system_time: int
    system_uptime: int
    memory_runs: Optional[List[Run]]
    instruction_pointer: int
    comment: Optional[str] = None
    product_type: Optional[int] = 3
    suite_mask: Optional[int] = 0x110
    attributes: Optional[int] = None
    signature: bytes = b"PAGE"
    valid_dump: bytes = b"DU64"
    major_version: int = 0xF
    machine_type: int = 0x8664

    def pack(self, dump_type: int, file_bytes: int) -> bytes:
        """Return the header of a file of a type and a size in bytes."""
        data = bytearray(b"PAGE" * (HEADER_BYTES // 4))
        struct.pack_into("<4s4sII", data, 0, self.signature, self.valid_dump, self.major_version, self.build)
        struct.pack_into(
            "<QQQQ",
            data,
            0x10,
            self.directory_table_base,
            self.pfn_database,
            self.loaded_module_list,
            self.active_process_head,
        )
        code, *parameters = self.bugcheck
        struct.pack_into("<IIIxxxx4Q", data, 0x30, self.machine_type, self.processors, code, *parameters)
        struct.pack_into("<Q", data, 0x80, self.debugger_data_block)
        if self.memory_runs is not None:
            pages = sum(count for _, count in self.memory_runs)
            struct.pack_into("<IIQ", data, 0x88, len(self.memory_runs), 0, pages)
            for index, run in enumerate(self.memory_runs):
                struct.pack_into("<QQ", data, 0x98 + 16 * index, *run)
        data[0x348 : 0x348 + _CONTEXT_BYTES] = pack_context(self.instruction_pointer)
        struct.pack_into("<II", data, 0xF00, _BUGCHECK_STATUS, 1)
        struct.pack_into("<I", data, 0xF98, dump_type)
        struct.pack_into("<QQ", data, 0xFA0, file_bytes, self.system_time)
        if self.comment is not None:
            data[0xFB0:0x1030] = self.comment.encode("ascii")[:127].ljust(128, b"\0")
        struct.pack_into("<Q", data, 0x1030, self.system_uptime)
        for offset, value in ((0x1040, self.product_type), (0x1044, self.suite_mask), (0x1050, self.attributes)):
            if value is not None:
                struct.pack_into("<I", data, offset, value)
        return bytes(data)


def pack_context(instruction_pointer: int) -> bytes:
    """Return an AMD64 CONTEXT of kernel code at an address."""
    context = bytearray(_CONTEXT_BYTES)
    struct.pack_into("<II", context, 0x30, 0x10001F, _MXCSR)
    struct.pack_into("<6HI", context, 0x38, 0x10, 0x2B, 0x2B, 0x53, 0x2B, 0x18, 0x286)
    struct.pack_into("<Q", context, 0xF8, instruction_pointer)
    struct.pack_into("<I", context, 0x118, _MXCSR)
    return bytes(context)
