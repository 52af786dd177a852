"""ELF cores as QEMU and VirtualBox write them."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import List, Optional, Sequence, Tuple

from dumps.forge.machine import ForgedMachine
from dumps.forge.physical import PAGE_BYTES
from dumps.forge.vmfiles.pages import Registers, ram_pages, ram_ranges, registers, write_range

FULL = 1


def save_core(
    machine: ForgedMachine,
    path: Path,
    *,
    processors: Optional[Sequence[Registers]] = None,
    with_header: bool = False,
    machine_type: int = 0x3E,
    narrow: bool = False,
    ranges: Optional[List[Tuple[int, int]]] = None,
    many_headers: bool = False,
    note: bytes = b"",
) -> None:
    """Write QEMU's core; ``with_header`` adds the note that Windows' own driver leaves.

    ``ranges`` are first page and number of pages; ``many_headers`` counts the segments in section 0, as files with
    65,535 and more do; ``note`` stands before all others.
    """
    cpus = registers(machine) if processors is None else processors
    notes = note + b"".join(pack_note(b"CORE", 1, bytes(0x150)) for _ in cpus)
    notes += b"".join(pack_note(b"QEMU", 0, pack_cpu(cpu)) for cpu in cpus)
    if with_header:
        notes += pack_note(b"VMCOREINFO", 0, pack_windows_header(machine))
    _write(machine, path, notes, ranges or ram_ranges(machine), machine_type, narrow=narrow, counted=many_headers)


def save_vbox(machine: ForgedMachine, path: Path) -> None:
    """Write VirtualBox's core."""
    notes = pack_note(b"VBCORE", 0xB00, struct.pack("<IIIIII", 0xC01AC0DE, 0x10006, 24, 0, 0, 1))
    for cpu in registers(machine):
        data = bytearray(0x240)
        struct.pack_into("<Q", data, 0x70, cpu.rip)
        struct.pack_into("<Q", data, 0xF0, cpu.gs)
        struct.pack_into("<QQQQ", data, 0x120, 0x80050033, 0, cpu.cr3, cpu.cr4)
        struct.pack_into("<Q", data, 0x218, cpu.kernel_gs)
        notes += pack_note(b"VBCPU", 0xB01, bytes(data))
    _write(machine, path, notes, ram_ranges(machine), 0x3E, narrow=False, counted=False, version=0)


def pack_note(name: bytes, kind: int, data: bytes) -> bytes:
    """Return a note: lengths, type, name, content, each rounded up to four bytes."""
    text = name + b"\0"
    head = struct.pack("<III", len(text), len(data), kind) + text.ljust(-(-len(text) // 4) * 4, b"\0")
    return head + data.ljust(-(-len(data) // 4) * 4, b"\0")


def pack_cpu(cpu: Registers) -> bytes:
    """Return QEMU's state of a processor, version 1."""
    data = bytearray(0x1B8)
    struct.pack_into("<II", data, 0, 1, 0x1B8)
    struct.pack_into("<Q", data, 0x88, cpu.rip)
    struct.pack_into("<Q", data, 0x108, cpu.gs)
    struct.pack_into("<Q", data, 0x180, cpu.idt)
    struct.pack_into("<QQQQQ", data, 0x188, 0x80050033, 0, 0, cpu.cr3, cpu.cr4)
    struct.pack_into("<Q", data, 0x1B0, cpu.kernel_gs)
    return bytes(data)


def pack_windows_header(machine: ForgedMachine) -> bytes:
    """Return the dump header that the guest's driver had the kernel fill in at its start."""
    header = machine.header.pack(FULL, 0)
    data = bytearray(header.ljust(0x2000, b"\0")[:0x2000])
    struct.pack_into("<Q", data, 0x40, 0)  # the address of a decoded debugger data block: none
    return bytes(data)


def _write(
    machine: ForgedMachine,
    path: Path,
    notes: bytes,
    ranges: List[Tuple[int, int]],
    machine_type: int,
    *,
    narrow: bool,
    counted: bool,
    version: int = 1,
) -> None:
    pages = ram_pages(machine)
    count = len(ranges) + 1
    head_bytes, entry_bytes, section_bytes = (0x34, 0x20, 0x28) if narrow else (0x40, 0x38, 0x40)
    sections_at = head_bytes + count * entry_bytes
    notes_at = sections_at + section_bytes
    at = notes_at + len(notes)
    entries = _entry(4, notes_at, 0, len(notes), narrow=narrow)
    places = []
    for first, number in ranges:
        entries += _entry(1, at, first * PAGE_BYTES, number * PAGE_BYTES, narrow=narrow)
        places.append(at)
        at += number * PAGE_BYTES
    told, section = (0xFFFF, count) if counted else (count, 0)
    form = "<HHIIIIIHHHHHH" if narrow else "<HHIQQQIHHHHHH"
    head = b"\x7fELF" + bytes((1 if narrow else 2, 1, version)).ljust(12, b"\0")
    head += struct.pack(
        form,
        4,
        machine_type,
        version,
        0,
        head_bytes,
        sections_at,
        0,
        head_bytes,
        entry_bytes,
        told,
        section_bytes,
        1,
        0,
    )
    with open(path, "wb") as file:
        file.write(head + entries)
        if narrow:
            file.write(struct.pack("<7I12x", 0, 0, 0, 0, 0, 0, 0)[:0x1C] + struct.pack("<III", section, 0, 0))
        else:
            file.write(struct.pack("<IIQQQQIIQQ", 0, 0, 0, 0, 0, 0, 0, section, 0, 0))
        file.write(notes)
        for place, (first, number) in zip(places, ranges):
            write_range(file, place, pages, first, number)


def _entry(kind: int, offset: int, physical: int, size: int, *, narrow: bool) -> bytes:
    if narrow:
        return struct.pack("<IIIIIIII", kind, offset, 0, physical, size, size, 0, 0)
    return struct.pack("<IIQQQQQQ", kind, 0, offset, 0, physical, size, size, 0)
