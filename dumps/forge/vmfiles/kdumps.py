"""kdump-compressed files as QEMU writes them, plain or flattened; snappy and LZO by literals only."""

from __future__ import annotations

import random
import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, List, Tuple

from dumps.forge.machine import ForgedMachine
from dumps.forge.physical import PAGE_BYTES
from dumps.forge.vmfiles.elfcores import pack_cpu, pack_note, pack_windows_header
from dumps.forge.vmfiles.pages import ram_pages, registers

PLAIN, ZLIB, LZO, SNAPPY, ZSTANDARD = 0, 1, 2, 4, 0x20


def save_kdump(
    machine: ForgedMachine,
    path: Path,
    packing: int = ZLIB,
    *,
    flattened: bool = True,
    shuffled: bool = True,
    ended: bool = True,
    with_header: bool = False,
) -> None:
    """Write the pages that exist.

    ``shuffled``: the pieces of a flattened file do not ascend; without ``ended`` its end mark is missing.
    """
    notes = b"".join(pack_note(b"QEMU", 0, pack_cpu(cpu)) for cpu in registers(machine))
    if with_header:
        notes += pack_note(b"VMCOREINFO", 0, pack_windows_header(machine))
    pieces = _make_pieces(machine, packing, notes)
    with open(path, "wb") as file:
        if flattened:
            _write_flattened(file, pieces, shuffled=shuffled, ended=ended)
        else:
            for at, data in pieces:
                file.seek(at)
                file.write(data)


def pack_page(data: bytes, packing: int) -> Tuple[int, bytes]:
    """Return flag and bytes of a page; one that does not become smaller is stored as it is."""
    if packing == ZLIB:
        packed = zlib.compress(data, 1)
    elif packing == SNAPPY:
        packed = snappy_page(data)
    elif packing == LZO:
        packed = lzo_page(data)
    elif packing == ZSTANDARD:
        packed = b"\x28\xb5\x2f\xfd" + bytes(8)
    else:
        packed = data
    return (packing, packed) if len(packed) < PAGE_BYTES else (0, data)


def snappy_page(data: bytes) -> bytes:
    """Return a page as snappy: its tail of zeros is a copy of itself, the rest literal."""
    body = data.rstrip(b"\0") + b"\0"
    out = b"\x80\x20" + bytes((61 << 2,)) + struct.pack("<H", len(body) - 1) + body
    left = PAGE_BYTES - len(body)
    while left > 0:
        length = min(left, 64)
        out += bytes((length - 1 << 2 | 2,)) + struct.pack("<H", 1)
        left -= length
    return out if left == 0 else data


def lzo_page(data: bytes) -> bytes:
    """Return a page as LZO1X: one long literal, and the zeros at its end as one match of the byte before."""
    body = data.rstrip(b"\0") + b"\0" * 4
    if len(body) > PAGE_BYTES - 64 or len(body) < 40:
        body = data if len(body) >= 40 else data[:40]
        if len(body) == PAGE_BYTES:
            return data
    left = PAGE_BYTES - len(body)
    out = b"\0" + _lzo_length(len(body) - 18) + body  # a literal run: length - 3, above 15
    out += b"\x20" + _lzo_length(left - 2 - 31) + struct.pack("<H", 0)  # M3: distance 1
    return out + b"\x11\0\0"


def _lzo_length(rest: int) -> bytes:
    return b"\0" * ((rest - 1) // 255) + bytes(((rest - 1) % 255 + 1,))


def _make_pieces(machine: ForgedMachine, packing: int, notes: bytes) -> List[Tuple[int, bytes]]:
    pages = ram_pages(machine)
    end = machine.kernel.architecture.span_pages
    bitmap = bytearray(-(-end // 8 // PAGE_BYTES) * PAGE_BYTES)
    for number in pages:
        bitmap[number // 8] |= 1 << number % 8
    notes_at = 0x1068
    sub_blocks = -(-(0x68 + len(notes)) // PAGE_BYTES)
    bitmap_at = (1 + sub_blocks) * PAGE_BYTES
    bitmap_blocks = 2 * len(bitmap) // PAGE_BYTES
    head = bytearray(PAGE_BYTES)
    struct.pack_into("<8sI", head, 0, b"KDUMP   ", 6)
    struct.pack_into("<6I", head, 0x1A8, 1, PAGE_BYTES, sub_blocks, bitmap_blocks, min(end, 0xFFFFFFFF), 0)
    struct.pack_into("<I", head, 0x1CC, machine.truth.processors)
    sub = struct.pack("<QII13Q", 0, 1, 0, *(0,) * 4, notes_at, len(notes), 0, 0, 0, 0, end, 0, 0)[:0x68]
    descriptors_at = bitmap_at + 2 * len(bitmap)
    data_at = descriptors_at + 0x18 * len(pages)
    descriptors, body, zero_at = bytearray(), BytesIO(), None
    for data in pages.values():
        flag, packed = pack_page(data, packing)
        at = data_at + body.tell()
        if not data.strip(b"\0"):
            if zero_at is not None:
                at = zero_at
            else:
                zero_at = at
                body.write(packed)
        else:
            body.write(packed)
        descriptors += struct.pack("<QIIQ", at, len(packed), flag, 0)
    return [
        (0, bytes(head)),
        (PAGE_BYTES, sub + notes),
        (bitmap_at, bytes(bitmap)),
        (bitmap_at + len(bitmap), bytes(bitmap)),
        (descriptors_at, bytes(descriptors)),
        (data_at, body.getvalue()),
    ]


def _write_flattened(file: BinaryIO, pieces: List[Tuple[int, bytes]], *, shuffled: bool, ended: bool) -> None:
    file.write(b"makedumpfile".ljust(16, b"\0") + struct.pack(">qq", 1, 1))
    file.seek(0x1000)
    records = []
    for at, data in pieces:
        step = 0x4321 if len(data) > 0x10000 else len(data)
        records += [(at + start, data[start : start + step]) for start in range(0, len(data), step or 1)]
    if shuffled:
        random.Random("records").shuffle(records)
    stale_at, stale = records[-1]
    records.insert(0, (stale_at, b"\xee" * len(stale)))  # written once more later: the later one counts
    for at, data in records:
        file.write(struct.pack(">qq", at, len(data)) + data)
    if ended:
        file.write(struct.pack(">qq", -1, -1))
