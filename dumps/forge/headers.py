"""DUMP_HEADER32 and DUMP_HEADER64, the first 1000h or 2000h bytes of a kernel dump.

Layouts from kdmp-parser, QEMU, volatility and the SDK's names. The kernel first fills the header with the text PAGE;
what it leaves so is absent.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import List, NamedTuple, Optional, Tuple

from dumps.forge.architectures import X64, Architecture
from dumps.forge.contexts import pack_context

Run = Tuple[int, int]  # first page frame, pages

_BUGCHECK_STATUS = 0x80000003
_COMMENT_BYTES = 0x80


class HeaderLayout(NamedTuple):
    """Where the members of a header stand, in bytes; the first four pointers are at 10h in both."""

    size: int
    machine: int
    bugcheck: int
    debugger_data_block: int
    runs: int
    maximum_runs: int
    context: int
    exception: int
    dump_type: int
    file_bytes: int
    system_time: int
    comment: int
    uptime: int
    minidump_fields: int
    product_type: int
    suite_mask: int
    attributes: int


LAYOUT64 = HeaderLayout(
    size=0x2000,
    machine=0x30,
    bugcheck=0x38,
    debugger_data_block=0x80,
    runs=0x88,
    maximum_runs=42,
    context=0x348,
    exception=0xF00,
    dump_type=0xF98,
    file_bytes=0xFA0,
    system_time=0xFA8,
    comment=0xFB0,
    uptime=0x1030,
    minidump_fields=0x1038,
    product_type=0x1040,
    suite_mask=0x1044,
    attributes=0x1050,
)
LAYOUT32 = HeaderLayout(
    size=0x1000,
    machine=0x20,
    bugcheck=0x28,
    debugger_data_block=0x60,
    runs=0x64,
    maximum_runs=86,
    context=0x320,
    exception=0x7D0,
    dump_type=0xF88,
    file_bytes=0xFA0,
    system_time=0xFC0,
    comment=0x820,
    uptime=0xFB8,
    minidump_fields=0xF8C,
    product_type=0xF94,
    suite_mask=0xF98,
    attributes=0x8A0,
)
_PAE_ENABLED = 0x5C  # in the 32-bit header only


@dataclass
class DumpHeader:
    """The header's fields; None leaves a field filled with PAGE. ``architecture`` decides on the layout alone."""

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
    stack_pointer: int
    comment: Optional[str] = None
    product_type: Optional[int] = 3
    suite_mask: Optional[int] = 0x110
    attributes: Optional[int] = None
    signature: bytes = b"PAGE"
    valid_dump: bytes = b"DU64"
    major_version: int = 0xF
    machine_type: int = 0x8664
    minidump_fields: Optional[int] = None
    pae_enabled: Optional[int] = None
    architecture: Architecture = X64

    @property
    def layout(self) -> HeaderLayout:
        """The layout of this header."""
        return LAYOUT32 if self.architecture.narrow else LAYOUT64

    def pack(self, dump_type: int, file_bytes: int) -> bytes:
        """Return the header of a file of a type and a size in bytes."""
        layout, pack_pointers = self.layout, self.architecture.pack_pointers
        data = bytearray(b"PAGE" * (layout.size // 4))
        pieces = [
            (0, struct.pack("<4s4sII", self.signature, self.valid_dump, self.major_version, self.build)),
            (0x10, pack_pointers(self.directory_table_base, self.pfn_database)),
            (
                0x10 + 2 * self.architecture.pointer_bytes,
                pack_pointers(self.loaded_module_list, self.active_process_head),
            ),
            (layout.machine, struct.pack("<II", self.machine_type, self.processors)),
            (layout.bugcheck, pack_pointers(*self.bugcheck)),
            (layout.debugger_data_block, pack_pointers(self.debugger_data_block)),
            (
                layout.context,
                pack_context(self.architecture, self.instruction_pointer, self.stack_pointer, self.bugcheck),
            ),
            (layout.exception, self._pack_exception()),
            (layout.dump_type, struct.pack("<I", dump_type)),
            (layout.file_bytes, struct.pack("<Q", file_bytes)),
            (layout.system_time, struct.pack("<Q", self.system_time)),
            (layout.uptime, struct.pack("<Q", self.system_uptime)),
        ]
        if self.memory_runs is not None:
            pieces.append((layout.runs, pack_memory_runs(self.architecture, self.memory_runs)))
        if self.comment is not None:
            text = self.comment.encode("ascii")[: _COMMENT_BYTES - 1]
            pieces.append((layout.comment, text.ljust(_COMMENT_BYTES, b"\0")))
        if self.pae_enabled is not None:
            pieces.append((_PAE_ENABLED, bytes((self.pae_enabled,))))
        for offset, value in (
            (layout.minidump_fields, self.minidump_fields),
            (layout.product_type, self.product_type),
            (layout.suite_mask, self.suite_mask),
            (layout.attributes, self.attributes),
        ):
            if value is not None:
                pieces.append((offset, struct.pack("<I", value)))
        for offset, piece in pieces:
            data[offset : offset + len(piece)] = piece
        return bytes(data)

    def _pack_exception(self) -> bytes:
        """Return the start of an EXCEPTION_RECORD: code, flags, no further record, address, no parameters."""
        addresses = self.architecture.pack_pointers(0, self.instruction_pointer)
        return struct.pack("<II", _BUGCHECK_STATUS, 1) + addresses + struct.pack("<I", 0)


def pack_memory_runs(architecture: Architecture, runs: List[Run]) -> bytes:
    """Return a PHYSICAL_MEMORY_DESCRIPTOR: the numbers of runs and of pages, then first frame and pages of each run."""
    page_count = sum(count for _, count in runs)
    counts = architecture.pack_pointers(len(runs), page_count)
    return counts + b"".join(architecture.pack_pointers(*run) for run in runs)
