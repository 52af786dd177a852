"""ELF cores: QEMU's dump-guest-memory (libvirt, Proxmox, Nutanix), VirtualBox's dumpvmcore, Xen's dump-core.

Sources: the ELF specification, QEMU's ``dump/dump.c`` and ``target/i386/arch_dump.c``, VirtualBox's
``dbgfcorefmt.h``, Xen's ``dump-core-format``; QEMU's form is checked against QEMU itself. The width and machine of the
file say nothing about the guest: a core of a 64-bit Windows may be an i386 one, if its first processor was not in long
mode.
"""

from __future__ import annotations

import struct
from array import array
from typing import Iterator, List, NamedTuple, Optional, Sequence, Tuple

from pykdext.errors import DumpFormatError, UnsupportedDumpError
from pykdext.targets.filebytes import FileBytes
from pykdext.targets.machine.cpustate import MAX_PROCESSORS, CpuState
from pykdext.targets.machine.image import MachineImage
from pykdext.targets.machine.memory import MAX_RANGES, PHYSICAL_ADDRESS_BITS, FileRanges, MemoryRange
from pykdext.targets.protocol import PAGE_BYTES
from pykdext.units import count_things

MAX_NOTES_BYTES = 64 << 20
MAX_NOTES = 4 * MAX_PROCESSORS
MAX_SECTIONS = 0x1000

_CORE = 4
_LOAD, _NOTE = 1, 4
_MANY_HEADERS = 0xFFFF
_ARM64, _I386, _X64 = 0xB7, 3, 0x3E

WINDBG_HINT = "WinDbg does not open it; QEMU's elf2dmp makes MEMORY.DMP of it"
_BOX_HINT = "WinDbg does not open it; MemProcFS shows it as memory.dmp, which WinDbg opens"


class _Form(NamedTuple):
    """The structures of one of the two widths: header, program header, section header; and which fields they give."""

    header: struct.Struct
    program: struct.Struct
    section: struct.Struct
    is_wide: bool


_WIDE = _Form(
    struct.Struct("<16xHHIQQQIHHHHHH"), struct.Struct("<IIQQQQQQ"), struct.Struct("<IIQQQQIIQQ"), is_wide=True
)
_NARROW = _Form(
    struct.Struct("<16xHHIIIIIHHHHHH"), struct.Struct("<IIIIIIII"), struct.Struct("<IIIIIIIIII"), is_wide=False
)

_NOTE_HEAD = struct.Struct("<III")
_QEMU_CPU_BYTES = 0x1B0
_BOX_CORE_TYPE, _BOX_CPU_TYPE = 0xB00, 0xB01
_BOX_CPU_BYTES = 0x220


class Note(NamedTuple):
    """A note: who wrote it, its type, its content."""

    name: bytes
    kind: int
    data: bytes


class _Program(NamedTuple):
    kind: int
    offset: int
    physical: int
    file_bytes: int


def open_elf_core(file: FileBytes) -> MachineImage:
    """The memory of an ELF core; DumpFormatError for other ELF files."""
    head = file.read_at(0, _WIDE.header.size)
    form = {1: _NARROW, 2: _WIDE}.get(head[4]) if len(head) == _WIDE.header.size else None
    if form is None or head[5] != 1:
        raise DumpFormatError(file.path, 4, f"an ELF file of class {head[4:6]!r}", "a little-endian core")
    kind, machine, _, _, program_at, section_at, _, _, program_bytes, count, section_bytes, sections, names = (
        form.header.unpack_from(head)
    )
    if kind != _CORE:
        found = "an ELF program or library" if kind != 1 else "an ELF object file"
        raise DumpFormatError(file.path, 0x10, found, "a core of a virtual machine")
    if machine not in (_X64, _I386, _ARM64):
        raise UnsupportedDumpError(file.path, 0x12, f"a core of machine 0x{machine:x}", "one of x64")
    if not count and sections:
        return _open_xen(file, form, section_at, section_bytes, sections, names)
    if count == _MANY_HEADERS:
        count = _read_section_info(file, form, section_at)
    programs = _read_programs(file, form, program_at, program_bytes, count)
    notes = [note for program in programs if program.kind == _NOTE for note in _read_notes(file, program)]
    ranges = [
        MemoryRange(program.physical, program.offset, program.file_bytes)
        for program in programs
        if program.kind == _LOAD and program.file_bytes and program.physical < 1 << PHYSICAL_ADDRESS_BITS
    ]
    if not ranges:
        raise DumpFormatError(file.path, program_at, "a core without memory", "at least one PT_LOAD segment")
    memory = FileRanges(file, ranges)
    if any(note.name == b"VBCORE" for note in notes):
        return MachineImage("VirtualBox core", memory, _read_box_processors(notes), windbg_hint=_BOX_HINT)
    return MachineImage(
        "QEMU core (ELF)",
        memory,
        read_qemu_processors(notes),
        header=find_windows_header(notes),
        windbg_hint=WINDBG_HINT,
    )


def _read_section_info(file: FileBytes, form: _Form, section_at: int) -> int:
    """How many program headers there are, if there are 65,535 and more: sh_info of section 0."""
    data = file.read_at(section_at, form.section.size)
    if len(data) < form.section.size:
        raise DumpFormatError(file.path, section_at, "no section header", "one that counts the segments")
    return int(form.section.unpack(data)[7])


def _read_programs(file: FileBytes, form: _Form, at: int, stride: int, count: int) -> List[_Program]:
    if not 0 < count <= MAX_RANGES or stride < form.program.size:
        found = f"{count_things(count, 'segment')} of {count_things(stride, 'byte')}"
        raise DumpFormatError(file.path, 0x36, found, f"1 to {MAX_RANGES:,} of {form.program.size}")
    data = file.read_at(at, count * stride)
    programs: List[_Program] = []
    for start in range(0, len(data) - form.program.size + 1, stride):
        fields = form.program.unpack_from(data, start)
        if form.is_wide:
            kind, _, offset, _, physical, file_bytes = fields[:6]
        else:
            kind, offset, _, physical, file_bytes = fields[:5]
        programs.append(_Program(kind, offset, physical, file_bytes))
    return programs


def _read_notes(file: FileBytes, program: _Program) -> List[Note]:
    return parse_notes(file.read_at(program.offset, min(program.file_bytes, MAX_NOTES_BYTES)))


def parse_notes(data: bytes) -> List[Note]:
    """The notes of a segment, as far as they are whole."""
    notes: List[Note] = []
    at = 0
    while at + _NOTE_HEAD.size <= len(data) and len(notes) < MAX_NOTES:
        name_bytes, data_bytes, kind = _NOTE_HEAD.unpack_from(data, at)
        start = at + _NOTE_HEAD.size
        content = start + (name_bytes + 3 & -4)
        if content + data_bytes > len(data):
            break
        name = data[start : start + name_bytes].rstrip(b"\0")
        notes.append(Note(name, kind, data[content : content + data_bytes]))
        at = content + (data_bytes + 3 & -4)
    return notes


def find_windows_header(notes: Sequence[Note]) -> Optional[bytes]:
    """The crash dump header that a Windows guest's driver left for QEMU; guests of Linux leave text there."""
    return next((note.data for note in notes if note.name == b"VMCOREINFO" and note.data.startswith(b"PAGEDU64")), None)


def read_qemu_processors(notes: Sequence[Note]) -> Tuple[CpuState, ...]:
    """The registers in QEMU's own notes, processor by processor."""
    found: List[CpuState] = []
    for note in notes:
        data = note.data
        if note.name != b"QEMU" or len(data) < _QEMU_CPU_BYTES or len(found) >= MAX_PROCESSORS:
            continue
        rip, gs_base, idt_base, cr3, cr4 = (
            int.from_bytes(data[at : at + 8], "little") for at in (0x88, 0x108, 0x180, 0x1A0, 0x1A8)
        )
        kernel_gs = int.from_bytes(data[0x1B0:0x1B8], "little") if len(data) >= 0x1B8 else None
        if cr3:
            found.append(CpuState(cr3, cr4, rip, gs_base, kernel_gs, idt_base))
    return tuple(found)


def _read_box_processors(notes: Sequence[Note]) -> Tuple[CpuState, ...]:
    """The registers in VirtualBox's notes."""
    found: List[CpuState] = []
    for note in notes:
        data = note.data
        if note.name != b"VBCPU" or note.kind != _BOX_CPU_TYPE or len(data) < _BOX_CPU_BYTES:
            continue
        rip, gs_base, cr3, cr4, kernel_gs = (
            int.from_bytes(data[at : at + 8], "little") for at in (0x70, 0xF0, 0x130, 0x138, 0x218)
        )
        idt_base = int.from_bytes(data[0x190:0x198], "little")
        if cr3 and len(found) < MAX_PROCESSORS:
            found.append(CpuState(cr3, cr4, rip, gs_base, kernel_gs, idt_base))
    return tuple(found)


def _open_xen(file: FileBytes, form: _Form, section_at: int, stride: int, count: int, names: int) -> MachineImage:
    """The memory of a Xen guest: pages in one section, their numbers in another."""
    if not 0 < count <= MAX_SECTIONS or stride < form.section.size:
        raise DumpFormatError(
            file.path,
            0x3C,
            f"{count_things(count, 'section')} of {count_things(stride, 'byte')}",
            f"1 to {MAX_SECTIONS}",
        )
    data = file.read_at(section_at, count * stride)
    sections = [form.section.unpack_from(data, at) for at in range(0, len(data) - form.section.size + 1, stride)]
    texts = file.read_at(sections[names][4], min(sections[names][5], 0x10000)) if names < len(sections) else b""
    found = {texts[item[0] :].partition(b"\0")[0]: (item[4], item[5]) for item in sections}
    if b".xen_pages" not in found or not found.keys() & {b".xen_pfn", b".xen_p2m"}:
        raise DumpFormatError(file.path, section_at, "an ELF core without segments", "one with memory")
    pages_at, pages_bytes = found[b".xen_pages"]
    is_hvm = b".xen_pfn" in found
    list_at, list_bytes = found[b".xen_pfn" if is_hvm else b".xen_p2m"]
    words = array("Q", file.read_at(list_at, min(list_bytes, file.size) & -8))
    numbers = words if is_hvm else words[0::2]
    pages = min(len(numbers), pages_bytes // PAGE_BYTES)
    ranges = tuple(_join_pages(numbers[:pages], pages_at))
    return MachineImage("Xen core", FileRanges(file, ranges), windbg_hint=_BOX_HINT)


def _join_pages(numbers: Sequence[int], at: int) -> Iterator[MemoryRange]:
    """Runs of pages that follow each other; the last page of a number counts, so that they come in reverse order."""
    end_of_memory = 1 << 40
    runs: List[MemoryRange] = []
    start = previous = -2
    begin = 0
    for index, number in enumerate((*numbers, 1 << 64)):
        if number == previous + 1 and number < end_of_memory:
            previous = number
            continue
        if start >= 0:
            runs.append(MemoryRange(start * PAGE_BYTES, at + begin * PAGE_BYTES, (index - begin) * PAGE_BYTES))
        start, previous, begin = (number, number, index) if number < end_of_memory else (-2, -2, index)
    return reversed(runs)
