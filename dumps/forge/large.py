"""Bitmap dumps of the size of real servers, for measurements: sparse files around a small machine."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from itertools import accumulate
from typing import List, Union

from dumps.forge.containers import BITMAP_KERNEL, pack_bitmap_header
from dumps.forge.machine import ForgedMachine
from dumps.forge.physical import PAGE_BYTES, SPAN_PAGES
from dumps.forge.scenarios import forge

_PAGES_PER_GIB = (1 << 30) // PAGE_BYTES
_BLOCK_BYTES = 0x1000  # of the bitmap: 128 MiB of memory
_BLOCK_PAGES = _BLOCK_BYTES * 8
_PATTERNS = 64


def forge_large(
    path: Union[str, os.PathLike[str]],
    present_gib: int,
    span_gib: int,
    mean_run_pages: int = 6,
    seed: int = 1,
    kind: int = BITMAP_KERNEL,
    scenario: str = "pipo",
) -> ForgedMachine:
    """Write a dump with about ``present_gib`` GiB of pages in ``span_gib`` GiB of physical addresses.

    The pages lie in random runs of ``mean_run_pages`` on average. Only the pages of the scenario's machine, which
    is returned, take room on disk; all others are holes in the file and read as zeros. ValueError where the machine
    does not fit into the span or the pages do not.
    """
    span_pages = span_gib * _PAGES_PER_GIB
    if span_pages < SPAN_PAGES or not 0 < present_gib < span_gib:
        raise ValueError(f"{present_gib} GiB of {span_gib} GiB: wanted fewer pages than addresses, and at least 4 GiB")
    machine = forge(scenario, seed=seed)
    chance = random.Random(f"large {present_gib} {span_gib} {seed}")
    patterns = [_make_pattern(present_gib / span_gib, mean_run_pages, chance) for _ in range(_PATTERNS)]
    bitmap = bytearray(b"".join(chance.choices(patterns, k=span_pages // _BLOCK_PAGES)))
    frames = machine.memory.present_frames()
    for frame in machine.memory.omitted:
        bitmap[frame >> 3] &= ~(1 << (frame & 7))
    for frame in frames:
        bitmap[frame >> 3] |= 1 << (frame & 7)

    blocks = range(0, len(bitmap), _BLOCK_BYTES)
    before: List[int] = [0, *accumulate(_count_bits(bitmap[start : start + _BLOCK_BYTES]) for start in blocks)]
    start = pack_bitmap_header(kind, machine.header.layout.size, len(bitmap), before[-1], span_pages)
    first_page = machine.header.layout.size + len(start) + len(bitmap)
    file_bytes = first_page + before[-1] * PAGE_BYTES
    header = replace(machine.header, memory_runs=[(0x1, 0x9E), (0x100, span_pages - 0x100)])
    with open(path, "wb") as file:
        file.write(header.pack(kind, file_bytes))
        file.write(start)
        file.write(bitmap)
        for frame in frames:
            block, bit = divmod(frame, _BLOCK_PAGES)
            lower = int.from_bytes(bitmap[block * _BLOCK_BYTES : (frame >> 3) + 1], "little") & (1 << bit) - 1
            file.seek(first_page + (before[block] + bin(lower).count("1")) * PAGE_BYTES)
            file.write(machine.memory.pages[frame])
        file.truncate(file_bytes)
    return machine


def _make_pattern(density: float, mean_run_pages: int, chance: random.Random) -> bytes:
    """Return one block of a bitmap with runs and gaps of geometric lengths."""
    mean_gap_pages = mean_run_pages * (1 - density) / density
    bits, position = 0, 0
    while position < _BLOCK_PAGES:
        position += 1 + int(chance.expovariate(1 / max(mean_gap_pages - 0.5, 0.5)))
        run = 1 + int(chance.expovariate(1 / max(mean_run_pages - 0.5, 0.5)))
        bits |= ((1 << run) - 1) << position
        position += run
    return (bits & (1 << _BLOCK_PAGES) - 1).to_bytes(_BLOCK_BYTES, "little")


def _count_bits(data: bytearray) -> int:
    return bin(int.from_bytes(data, "little")).count("1")
