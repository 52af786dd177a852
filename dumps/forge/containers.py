"""The dump files around the pages: what follows the header in each type that holds physical memory.

Layouts from kdmp-parser, volatility, QEMU and the public copies of the SDK's structures.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import BinaryIO, List, Sequence, Set

from dumps.forge.headers import DumpHeader, Run
from dumps.forge.physical import PAGE_BYTES, PhysicalMemory

FULL, SUMMARY, TRIAGE, BITMAP_FULL, BITMAP_KERNEL, AUTOMATIC = 1, 2, 4, 5, 6, 7
KERNEL_RANGES, KERNEL_AND_USER_RANGES, COMPLETE_RANGES = 8, 9, 10
KINDS = (
    *(FULL, SUMMARY, TRIAGE, BITMAP_FULL, BITMAP_KERNEL, AUTOMATIC),
    *(KERNEL_RANGES, KERNEL_AND_USER_RANGES, COMPLETE_RANGES),
)
_BITMAP_KINDS = (BITMAP_FULL, BITMAP_KERNEL, AUTOMATIC)
_RANGE_KINDS = (KERNEL_RANGES, KERNEL_AND_USER_RANGES, COMPLETE_RANGES)

_KERNEL_ADDRESSES = 1  # DumpOptions: pages of kernel addresses
_BITMAP_HEADER_BYTES = 0x38
_RANGES_HEADER_BYTES = 0x30
_RANGES_METADATA_START = 0x20


def write_dump(file: BinaryIO, kind: int, header: DumpHeader, memory: PhysicalMemory) -> None:
    """Write one dump file; ValueError for a type that does not hold pages, or not of this architecture."""
    if kind not in (FULL, SUMMARY, *_BITMAP_KINDS, *_RANGE_KINDS):
        raise ValueError(f"dump type {kind}: the forge writes {', '.join(map(str, KINDS))}")
    if kind in _RANGE_KINDS and header.architecture.narrow:
        raise ValueError(f"dump type {kind}: known of 64-bit systems only")
    frames = memory.present_frames()
    start = b"" if kind == FULL else _pack_start(kind, header, frames)
    if kind == FULL:
        runs = find_runs(frames, memory.omitted, header.layout.maximum_runs)
        frames = [frame for first, count in runs for frame in range(first, first + count)]
        header = replace(header, memory_runs=runs)
    file.write(header.pack(kind, header.layout.size + len(start) + len(frames) * PAGE_BYTES))
    file.write(start)
    nothing = bytes(PAGE_BYTES)
    for frame in frames:
        file.write(memory.pages.get(frame, nothing))


def _pack_start(kind: int, header: DumpHeader, frames: Sequence[int]) -> bytes:
    """Return what stands between the header and the pages."""
    if kind == SUMMARY:
        return _pack_summary_start(header, frames)
    if kind in _RANGE_KINDS:
        return _pack_ranges_start(kind, header, frames)
    bitmap = _pack_bitmap(header, frames)
    span_pages = header.architecture.span_pages
    return pack_bitmap_header(kind, header.layout.size, len(bitmap), len(frames), span_pages) + bitmap


def pack_bitmap_header(kind: int, header_bytes: int, bitmap_bytes: int, present_pages: int, span_pages: int) -> bytes:
    """Return the header between the dump's header and its bitmap; the pages follow the bitmap at once."""
    first_page = header_bytes + _BITMAP_HEADER_BYTES + bitmap_bytes
    mark = b"FDMP" if kind == BITMAP_FULL else b"SDMP"
    start = struct.pack("<4s4sI", mark, b"DUMP", _KERNEL_ADDRESSES).ljust(0x20, b"\0")
    return start + struct.pack("<QQQ", first_page, present_pages, span_pages)


def _pack_bitmap(header: DumpHeader, frames: Sequence[int]) -> bytes:
    bitmap = bytearray(header.architecture.span_pages // 8)
    for frame in frames:
        bitmap[frame >> 3] |= 1 << (frame & 7)
    return bytes(bitmap)


def _pack_summary_start(header: DumpHeader, frames: Sequence[int]) -> bytes:
    """Return SUMMARY_DUMP32 or 64; its buffer pointer is stale, and the pages start at the next page boundary."""
    bitmap = _pack_bitmap(header, frames)
    narrow, span_pages = header.architecture.narrow, header.architecture.span_pages
    bitmap_offset = 0x20 if narrow else 0x28
    start_bytes = -(-(bitmap_offset + len(bitmap)) // PAGE_BYTES) * PAGE_BYTES
    first_page = header.layout.size + start_bytes
    start = struct.pack("<4s4sI", b"SDMP", b"DUMP", _KERNEL_ADDRESSES)
    start += struct.pack("<IIII", first_page, span_pages, len(frames), span_pages)
    start += struct.pack("<I" if narrow else "<IQ", *((0x81F3C018,) if narrow else (0, 0)))
    return (start + bitmap).ljust(start_bytes, b"\0")


def _pack_ranges_start(kind: int, header: DumpHeader, frames: Sequence[int]) -> bytes:
    """Return the header and the list of ranges that debuggers write; the pages start at the next page boundary."""
    ranges = find_runs(frames, set(), len(frames))
    items = b"".join(struct.pack("<QQ", *item) for item in ranges)
    if kind == COMPLETE_RANGES:
        counts = struct.pack("<IHHQ", len(ranges), 0, 0, len(frames))
    else:
        counts, items = bytes(16), items + bytes(16)
    start_bytes = -(-(_RANGES_HEADER_BYTES + len(items)) // PAGE_BYTES) * PAGE_BYTES
    metadata_bytes, first_page = start_bytes - _RANGES_METADATA_START, header.layout.size + start_bytes
    start = struct.pack("<I4s4sxxxxQQ", 0x40, b"RDMP", b"DUMP", metadata_bytes, first_page)
    return (start + counts + items).ljust(start_bytes, b"\0")


def find_runs(frames: Sequence[int], apart: Set[int], limit: int) -> List[Run]:
    """Return at most ``limit`` runs that hold the ascending frames and none of those set apart.

    Where frames are closer than the widest gaps, the frames between them become part of the run; ValueError when
    the frames set apart alone need more runs.
    """
    gaps = [(frames[n], frames[n + 1]) for n in range(len(frames) - 1) if frames[n + 1] - frames[n] > 1]
    forced = [gap for gap in gaps if any(gap[0] < frame < gap[1] for frame in apart)]
    if len(forced) >= limit:
        raise ValueError(f"{len(forced) + 1} runs of pages, a full dump has room for {limit}")
    widest = sorted(set(gaps) - set(forced), key=lambda gap: gap[0] - gap[1])
    borders = sorted(forced + widest[: limit - 1 - len(forced)])
    starts = [frames[0], *(after for _, after in borders)]
    ends = [*(before for before, _ in borders), frames[-1]]
    return [(start, end - start + 1) for start, end in zip(starts, ends)]
