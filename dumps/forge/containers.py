"""The dump files around the pages: full dumps (type 1) and bitmap dumps (types 5 and 6)."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import BinaryIO, Dict, List, Sequence, Set

from dumps.forge.headers import HEADER_BYTES, MAXIMUM_RUNS, DumpHeader, Run
from dumps.forge.physical import PAGE_BYTES, SPAN_PAGES, PhysicalMemory

FULL, BITMAP_FULL, BITMAP_KERNEL = 1, 5, 6
KINDS = (FULL, BITMAP_FULL, BITMAP_KERNEL)

_BITMAP_HEADER_BYTES = 0x38
_MARKS: Dict[int, bytes] = {BITMAP_FULL: b"FDMP", BITMAP_KERNEL: b"SDMP"}


def write_dump(file: BinaryIO, kind: int, header: DumpHeader, memory: PhysicalMemory) -> None:
    """Write one dump file; ValueError for a kind that the forge does not write."""
    if kind == FULL:
        _write_full(file, header, memory)
    elif kind in _MARKS:
        _write_bitmap(file, kind, header, memory)
    else:
        raise ValueError(f"dump type {kind}: the forge writes {', '.join(map(str, KINDS))}")


def pack_bitmap_header(kind: int, bitmap_bytes: int, present_pages: int, span_pages: int) -> bytes:
    """Return the header between the dump's header and its bitmap; the pages follow the bitmap at once."""
    first_page = HEADER_BYTES + _BITMAP_HEADER_BYTES + bitmap_bytes
    header = struct.pack("<4s4sI", _MARKS[kind], b"DUMP", 1).ljust(0x20, b"\0")
    return header + struct.pack("<QQQ", first_page, present_pages, span_pages)


def _write_bitmap(file: BinaryIO, kind: int, header: DumpHeader, memory: PhysicalMemory) -> None:
    frames = memory.present_frames()
    bitmap = bytearray(SPAN_PAGES // 8)
    for frame in frames:
        bitmap[frame >> 3] |= 1 << (frame & 7)
    start = pack_bitmap_header(kind, len(bitmap), len(frames), SPAN_PAGES) + bytes(bitmap)
    file_bytes = HEADER_BYTES + len(start) + len(frames) * PAGE_BYTES
    file.write(header.pack(kind, file_bytes))
    file.write(start)
    for frame in frames:
        file.write(memory.pages[frame])


def _write_full(file: BinaryIO, header: DumpHeader, memory: PhysicalMemory) -> None:
    frames = memory.present_frames()
    runs = find_runs(frames, memory.omitted, MAXIMUM_RUNS)
    page_count = sum(count for _, count in runs)
    file.write(replace(header, memory_runs=runs).pack(FULL, HEADER_BYTES + page_count * PAGE_BYTES))
    nothing = bytes(PAGE_BYTES)
    present = set(frames)
    for first, count in runs:
        for frame in range(first, first + count):
            file.write(memory.pages[frame] if frame in present else nothing)


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
