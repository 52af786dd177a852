"""VMware's .vmem with its .vmsn, and a .vmsn with the memory inside."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import List, Optional, Sequence, Tuple

from dumps.forge.machine import ForgedMachine
from dumps.forge.physical import PAGE_BYTES
from dumps.forge.vmfiles.pages import Registers, ram_pages, ram_ranges, registers, write_range

Region = Tuple[int, int, int]
"""First guest page, first page in the memory file, pages."""


def plan_regions(machine: ForgedMachine) -> List[Region]:
    """Return the regions as VMware lays them out: one behind the other in the memory file."""
    regions, at = [], 0
    for first, count in ram_ranges(machine):
        regions.append((first, at, count))
        at += count
    return regions


def save_vmem(machine: ForgedMachine, path: Path, regions: Optional[Sequence[Region]] = None) -> None:
    """Write the memory file."""
    pages = ram_pages(machine)
    with open(path, "wb") as file:
        for first, at, count in regions or plan_regions(machine):
            write_range(file, at * PAGE_BYTES, pages, first, count)


def save_state(
    machine: ForgedMachine,
    path: Path,
    regions: Optional[Sequence[Region]] = None,
    processors: Optional[Sequence[Registers]] = None,
    magic: int = 0xBED2BED2,
) -> None:
    """Write a .vmsn or .vmss that describes a memory file."""
    described = plan_regions(machine) if regions is None else regions
    cpus = registers(machine) if processors is None else processors
    path.write_bytes(_pack_state(_memory_tags(described), _cpu_tags(cpus), magic))


def save_inline(machine: ForgedMachine, path: Path, padding: int = 0x5) -> None:
    """Write a .vmsn that holds the memory itself; ``padding`` bytes stand before it."""
    regions = plan_regions(machine)
    size = sum(count for _, _, count in regions) * PAGE_BYTES
    tags = _memory_tags(regions)
    name = b"Memory"
    block = bytes((0x3F | 2 << 6, len(name))) + name + struct.pack("<IIQQH", 0, 0, size, size, padding)
    block += b"\xcc" * padding
    head, cpu = 0x0C + 0x50 * 2, _cpu_tags(registers(machine))
    memory_at = head + len(cpu) + 2
    data_at = memory_at + len(tags) + len(block)
    groups = _group("cpu", head, len(cpu) + 2)
    groups += _group("memory", memory_at, len(tags) + len(block) + size + 2)
    pages = ram_pages(machine)
    with open(path, "wb") as file:
        file.write(struct.pack("<III", 0xBED2BED2, 8, 2) + groups + cpu + b"\0\0" + tags + block)
        for first, at, count in regions:
            write_range(file, data_at + at * PAGE_BYTES, pages, first, count)
        file.seek(data_at + size)
        file.write(b"\0\0")


def save_without_memory(machine: ForgedMachine, path: Path) -> None:
    """Write the .vmsn of a snapshot without the guest's memory."""
    path.write_bytes(_pack_state(b"", _cpu_tags(registers(machine)), 0xBED2BED2))


def _pack_state(memory: bytes, cpu: bytes, magic: int) -> bytes:
    head = 0x0C + 0x50 * 3
    snapshot = _tag("description", (), b"x" * 11) + b"\0\0"
    memory, cpu = memory + b"\0\0", cpu + b"\0\0"
    groups = _group("Snapshot", head, len(snapshot))
    groups += _group("memory", head + len(snapshot), len(memory))
    groups += _group("cpu", head + len(snapshot) + len(memory), len(cpu))
    return struct.pack("<III", magic, 8, 3) + groups + snapshot + memory + cpu


def _group(name: str, position: int, size: int) -> bytes:
    return struct.pack("<64sQQ", name.encode("ascii"), position, size)


def _tag(name: str, indices: Tuple[int, ...], value: bytes) -> bytes:
    text = name.encode("ascii")
    head = bytes((len(value) | len(indices) << 6, len(text))) + text
    return head + struct.pack(f"<{len(indices)}I", *indices) + value


def _block(name: str, indices: Tuple[int, ...], value: bytes, padding: int = 3) -> bytes:
    text = name.encode("ascii")
    head = bytes((0x3F | len(indices) << 6, len(text))) + text + struct.pack(f"<{len(indices)}I", *indices)
    return head + struct.pack("<QQH", len(value), len(value), padding) + bytes(padding) + value


def _memory_tags(regions: Sequence[Region]) -> bytes:
    tags = _tag("regionsCount", (), struct.pack("<I", len(regions)))
    for number, (first, at, count) in enumerate(regions):
        for name, value in (("regionPPN", first), ("regionPageNum", at), ("regionSize", count)):
            tags += _tag(name, (number,), struct.pack("<I", value))
    return tags + _tag("align_mask", (0, 0), struct.pack("<I", 0xFFFF))


def _cpu_tags(processors: Sequence[Registers]) -> bytes:
    tags = _tag("cpu:numVCPUs", (), struct.pack("<I", len(processors)))
    for number, cpu in enumerate(processors):
        control = struct.pack("<9Q", 0x80050033, 0, 0, cpu.cr3, cpu.cr4, 0, 0, 0, 0)
        if number % 2:
            tags += _block("CR64", (number,), control)
        else:
            for register in range(5):
                tags += _tag("CR64", (number, register), control[8 * register : 8 * register + 8])
        tags += _tag("rip", (number,), struct.pack("<Q", cpu.rip))
        tags += _tag("S.base64", (number, 5), struct.pack("<Q", cpu.gs))
    return tags
