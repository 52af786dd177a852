"""Hyper-V's saved states (.vmrs), from microsoft/openvmm's description of the format and [MS-XCA]."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

from dumps.forge.machine import ForgedMachine
from dumps.forge.physical import PAGE_BYTES
from dumps.forge.vmfiles.pages import Registers, ram_pages, ram_ranges, registers

_BLOCK_PAGES = 256
_ALIGNMENT = 0x1000
_INLINE_LIMIT = 2048
_KEYS_BYTES = 4096
_OBJECTS_PER_TABLE = (4096 - 8) // 18

Value = Tuple[int, bytes]
"""Type of a key and its content."""

INT, UINT, ARRAY, NODE = 3, 4, 7, 9


def save_state(
    machine: ForgedMachine,
    path: Path,
    *,
    packed: bool = True,
    ranges: Optional[List[Tuple[int, int]]] = None,
    secure_first: bool = False,
    dirty: bool = False,
    without_memory: bool = False,
) -> None:
    """Write the machine; ``packed`` packs blocks of memory by every way that there is.

    ``ranges`` are first page and number of pages, a fragment each; between them there may be holes of less than a
    block. ``secure_first`` puts the secure kernel's registers before the normal ones, ``dirty`` leaves a change in
    the replay log, ``without_memory`` is a production checkpoint.
    """
    keys: Dict[str, Value] = {
        "/configuration/properties/version": (INT, struct.pack("<q", 0xA00)),
        "/savedstate/VmVersion": (INT, struct.pack("<q", 0xA00)),
        "/savedstate/savedVM/partition_state": (ARRAY, pack_partition(registers(machine), secure_first=secure_first)),
    }
    if not without_memory:
        keys.update(_memory_keys(machine, ranges or ram_ranges(machine), packed=packed))
    path.write_bytes(pack_storage(keys, dirty=dirty))


def _memory_keys(machine: ForgedMachine, ranges: List[Tuple[int, int]], *, packed: bool) -> Dict[str, Value]:
    pages = ram_pages(machine)
    keys: Dict[str, Value] = {}
    stored: Dict[int, bytes] = {}
    at = 0
    for number, (first, count) in enumerate(ranges):
        data = struct.pack("<IIQQQI4xQ", 3, 0, count, at, first, 0, 0)
        keys[f"/savedstate/RamMemoryBlock{number}"] = (ARRAY, data)
        stored.update((at + page - first, data) for page, data in pages.items() if first <= page < first + count)
        at += count
    for block in sorted({page // _BLOCK_PAGES for page in stored}):
        content = [stored.get(block * _BLOCK_PAGES + n, bytes(PAGE_BYTES)) for n in range(_BLOCK_PAGES)]
        data = pack_block(content, block) if packed else b"".join(content)
        keys[f"/savedstate/RamBlock{block}"] = (ARRAY, data)
    return keys


def pack_block(pages: Sequence[bytes], seed: int = 0) -> bytes:
    """Return a block of 256 pages by tokens: filled pages, runs of them, groups, single ones, plain ones."""
    out = bytearray()
    at = 0
    while at < len(pages):
        page = pages[at]
        if page == page[:8] * (PAGE_BYTES // 8):
            run = 1
            while at + run < len(pages) and pages[at + run] == page:
                run += 1
            out += struct.pack("<I", 0xFFFFFFFE if run == 1 else 0xFFFFFFFD) + page[:8]
            out += struct.pack("<I", run) if run > 1 else b""
            at += run
            continue
        group = 3 if (at + seed) % 5 == 0 and at + 3 <= len(pages) else 1
        data = b"".join(pages[at : at + group])
        packed = pack_lz77(data)
        if group > 1:
            body = packed if len(packed) < len(data) else data
            out += struct.pack("<III", 0xFFFFFFFC, len(data), len(body)) + body
        else:
            body = packed if len(packed) < PAGE_BYTES else data
            out += struct.pack("<I", len(body)) + body
        at += group
    return bytes(out + struct.pack("<I", 0xFFFFFFFF))


def pack_lz77(data: bytes) -> bytes:
    """Return bytes in the plain LZ77 form; matches are found by the last place of their first three bytes."""
    out = bytearray(4)
    flags, used, flags_at, half_at = 0, 0, 0, -1
    places: Dict[bytes, int] = {}
    at = 0
    while at < len(data):
        if used == 32:
            out[flags_at : flags_at + 4] = struct.pack("<I", flags)
            flags, used, flags_at = 0, 0, len(out)
            out += bytes(4)
        key = data[at : at + 3]
        place = places.get(key, -1)
        length = 0
        if len(key) == 3 and 0 < at - place <= 0x2000 and place >= 0:
            while at + length < len(data) and data[place + length] == data[at + length]:
                length += 1
        places[key] = at
        used += 1
        if length < 3:
            flags = flags << 1
            out.append(data[at])
            at += 1
            continue
        flags = flags << 1 | 1
        rest = length - 3
        out += struct.pack("<H", (at - place - 1) << 3 | min(rest, 7))
        if rest >= 7:
            half = min(rest - 7, 15)
            if half_at < 0:
                half_at = len(out)
                out.append(half)
            else:
                out[half_at] |= half << 4
                half_at = -1
            if half == 15:
                out.append(min(rest - 22, 255))
                if rest - 22 >= 255:
                    out += struct.pack("<H", rest) if rest < 0x10000 else struct.pack("<HI", 0, rest)
        at += length
    if used == 32:
        out[flags_at : flags_at + 4] = struct.pack("<I", flags)
        return bytes(out + b"\xff\xff\xff\xff")
    flags = flags << (32 - used) | (1 << (32 - used)) - 1
    out[flags_at : flags_at + 4] = struct.pack("<I", flags)
    return bytes(out)


def pack_partition(cpus: Sequence[Registers], *, secure_first: bool = False) -> bytes:
    """Return the registers as chunks: identity, length, eight bytes of nothing, content."""
    body = _chunk(0x00000001, bytes(0xFE0)) + _chunk(0x20001000, struct.pack("<QQ", 0x0001040A00004A61, 0))
    for number, cpu in enumerate(cpus):
        body += _chunk(0x30001000, struct.pack("<I12x", number))
        if secure_first:
            body += _chunk(0x3001A000, bytes((1,)) + bytes(15)) + _processor(Registers(0x5AFE000, 0, 0, 0))
        body += _chunk(0x3001A000, bytes(16)) + _processor(cpu)
    body += _chunk(0xF0000000, b"")
    total = 0x28 + len(body)
    return struct.pack("<QQQ16x", 0x18, 0x18, total) + body


def _processor(cpu: Registers) -> bytes:
    segments = b"".join(struct.pack("<QII", cpu.gs if n == 5 else 0, 0xFFFFFFFF, 0) for n in range(8)) + bytes(16)
    general = struct.pack("<18Q", *(0,) * 16, cpu.rip, 0x246)
    return (
        _chunk(0x30002000, general)
        + _chunk(0x30007000, struct.pack("<6Q", 0x80050033, 0, cpu.cr3, cpu.cr4, 0, 0xD01))
        + _chunk(0x30009000, segments)
        + _chunk(0x3000A000, struct.pack("<HHHHQHHHHQ", 0, 0, 0, 0xFFF, cpu.idt, 0, 0, 0, 0x57, 0))
    )


def _chunk(kind: int, data: bytes) -> bytes:
    return struct.pack("<II8x", kind, len(data)) + data


def pack_storage(keys: Dict[str, Value], *, dirty: bool = False, version: int = 0x400) -> bytes:
    """Return a storage file of these keys, which begins with two headers and a table of objects."""
    objects: List[Tuple[int, int, int]] = []  # type, offset, size
    body = bytearray()
    places: Dict[str, Tuple[int, int]] = {}
    tables: List[bytearray] = []
    table_count = 1
    while True:  # the tables of objects come first: their number must be known before anything is placed
        objects, places, tables = [], {}, []
        base = 0x2000 + table_count * 0x1000
        body = bytearray()
        for path in _with_parents(keys):
            kind, data = keys.get(path, (NODE, bytes(12)))
            flags, content = 0, data
            if kind == ARRAY:
                content = struct.pack("<I", len(data)) + data
                if len(data) >= _INLINE_LIMIT:
                    at = base + len(body)
                    body += data.ljust(-(-len(data) // _ALIGNMENT) * _ALIGNMENT, b"\0")
                    objects.append((3, at, -(-len(data) // _ALIGNMENT) * _ALIGNMENT))
                    flags, content = 1, struct.pack("<IQ", len(data), at)
            parent, _, name = path.rpartition("/")
            text = name.encode() + b"\0"
            size = 21 + len(text) + len(content)
            if not tables or len(tables[-1]) + size + 22 > _KEYS_BYTES:
                tables.append(bytearray(struct.pack("<HHHI", 2, len(tables) + 1, 1, 0)))
            table = tables[-1]
            places[path] = (len(tables), len(table))
            parent_table, parent_at = places.get(parent, (0, 0))
            table += struct.pack("<BBIHIIIB", kind, flags, size, parent_table, parent_at, 0, 1, len(text))
            table += text + content
        for number, filled in enumerate(tables):
            left = _KEYS_BYTES - len(filled)
            filled.extend(struct.pack("<BBIHIIIB", 1, 0, left, 0, 0, 0, 0, 0).ljust(left, b"\0"))
            objects.append((2, base + len(body) + number * _KEYS_BYTES, _KEYS_BYTES))
        needed = -(-len(objects) // (_OBJECTS_PER_TABLE - 1))
        if needed <= table_count:
            break
        table_count = needed
    for table in tables:
        body += table
    log_at = 0x2000 + table_count * 0x1000 + len(body)
    log = struct.pack("<IIIBIBQII", 0x01110003, 0, 1 if dirty else 0, 0, 16, 0, 0, 0, 0).ljust(_ALIGNMENT, b"\0")
    return _pack_headers(log_at, version) + _pack_object_tables(objects, table_count) + bytes(body) + log


def _pack_headers(log_at: int, version: int) -> bytes:
    head = b""
    for sequence in (6, 7):
        fields = struct.pack("<HIIIIQQI", sequence, version, 1, 0, _ALIGNMENT, log_at, _ALIGNMENT, 34)
        crc = zlib.crc32(struct.pack("<II", 0x01282014, 0) + fields)
        head += (struct.pack("<II", 0x01282014, crc) + fields).ljust(0x1000, b"\0")
    return head


def _pack_object_tables(objects: List[Tuple[int, int, int]], table_count: int) -> bytes:
    """Return the tables that list what is where; the last row of each leads to the next one."""
    listing = b""
    step = _OBJECTS_PER_TABLE - 1
    for number in range(table_count):
        rows = objects[number * step : (number + 1) * step]
        table = struct.pack("<II", 0x01110001, _OBJECTS_PER_TABLE)
        table += b"".join(struct.pack("<BIQIB", kind, 0, at, size, 1) for kind, at, size in rows)
        table += bytes(18 * (step - len(rows)))
        if number + 1 < table_count:
            table += struct.pack("<BIQIB", 1, 0, 0x2000 + (number + 1) * 0x1000, 0x1000, 1)
        listing += table.ljust(0x1000, b"\0")
    return listing


def _with_parents(keys: Dict[str, Value]) -> List[str]:
    """Return all paths, parents before what is in them."""
    paths: Dict[str, None] = {}
    for path in keys:
        parts = path.split("/")
        for end in range(2, len(parts)):
            paths["/".join(parts[:end])] = None
        paths[path] = None
    return list(paths)
