"""Dumps of the size of servers, with known content in some of their pages.

Ranks of pages are counted here once more, so that a reader of the dump cannot agree with itself.
"""

from __future__ import annotations

import hashlib
import os
import random
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Dict, Iterable, List, Sequence

from dumps.forge.large import forge_large

PAGE_BYTES = 0x1000
BITMAP_FULL = 5  # the one kind of bitmap dump that all peers read

_FIRST_PAGE_FIELD = 0x2020
_BITMAP = 0x2038


@dataclass(frozen=True)
class Size:
    """How large a dump is, and how scattered its pages are."""

    present_gib: int
    span_gib: int
    mean_run_pages: int

    def __str__(self) -> str:
        return f"{self.present_gib} of {self.span_gib} GiB, runs of {self.mean_run_pages}"


SMALL = Size(6, 16, 6)
SCATTERED = Size(48, 256, 6)
LARGE = Size(48, 256, 200)


@dataclass(frozen=True)
class LargeDump:
    """A dump file, physical addresses to read from it and where they are in the file.

    ``addresses`` begins with the first present page and ends with the last; between them pages in random order.
    ``digests`` are those of the first page, of the last one, and of all in this order.
    """

    path: Path
    addresses: Sequence[int]
    offsets: Sequence[int]
    digests: Sequence[str]


def make_large_dump(folder: Path, size: Size, page_count: int) -> LargeDump:
    """Forge a dump in ``folder`` and write known content into ``page_count`` of its pages."""
    name = f"{size.present_gib}-{size.span_gib}-{size.mean_run_pages}.dmp"
    forged = folder / f"forged-{name}"
    machine = forge_large(forged, size.present_gib, size.span_gib, size.mean_run_pages, kind=BITMAP_FULL)
    own_pages = {page: bytes(machine.memory.pages[page]) for page in machine.memory.present_frames()}
    path = folder / name
    with open(forged, "rb") as source, open(path, "wb") as file:
        bitmap = _copy_aligned(source, file)
        pages = _choose_pages(bitmap, page_count)
        contents = {**{page: struct.pack("<Q", page) * (PAGE_BYTES // 8) for page in pages}, **own_pages}
        offsets = _offsets_of(bitmap, file.tell(), contents)
        for page, content in contents.items():
            file.seek(offsets[page])
            file.write(content)
        file.truncate(offsets[pages[-1]] + PAGE_BYTES)
    forged.unlink()
    chosen = [contents[page] for page in pages]
    digests = [digest_of([chosen[0]]), digest_of([chosen[-1]]), digest_of(chosen)]
    return LargeDump(path, [page * PAGE_BYTES for page in pages], [offsets[page] for page in pages], digests)


def digest_of(pages: Sequence[bytes]) -> str:
    """Stands for the bytes of pages in their order."""
    return hashlib.sha256(b"".join(pages)).hexdigest()


def _copy_aligned(source: BinaryIO, file: BinaryIO) -> bytes:
    """Copy headers and bitmap; the page data begins at a multiple of its size, as LeechCore wants it.

    Returns the bitmap and leaves ``file`` where the page data begins.
    """
    head = bytearray(source.read(_BITMAP))
    (first_page,) = struct.unpack_from("<Q", head, _FIRST_PAGE_FIELD)
    bitmap = source.read(first_page - _BITMAP)
    aligned = -(-first_page // PAGE_BYTES) * PAGE_BYTES
    struct.pack_into("<Q", head, _FIRST_PAGE_FIELD, aligned)
    file.write(head + bitmap)
    file.seek(aligned)
    return bitmap


def _choose_pages(bitmap: bytes, count: int) -> List[int]:
    """The first present page, ``count`` random ones, and the last."""
    bits = len(bitmap) * 8
    first = next(page for page in range(bits) if _is_present(bitmap, page))
    last = next(page for page in reversed(range(bits)) if _is_present(bitmap, page))
    chance = random.Random("pages")
    chosen: Dict[int, None] = {}
    while len(chosen) < count:
        page = chance.randrange(first + 1, last)
        if _is_present(bitmap, page):
            chosen[page] = None
    return [first, *chosen, last]


def _is_present(bitmap: bytes, page: int) -> bool:
    return bool(bitmap[page >> 3] >> (page & 7) & 1)


def _offsets_of(bitmap: bytes, first_page: int, pages: Iterable[int]) -> Dict[int, int]:
    """Where present pages are in the file: behind all that have lower numbers."""
    offsets: Dict[int, int] = {}
    counted_bytes = rank = 0
    for page in sorted(pages):
        rank += _count_bits(bitmap[counted_bytes : page >> 3])
        counted_bytes = page >> 3
        below = bitmap[counted_bytes] & (1 << (page & 7)) - 1
        offsets[page] = first_page + (rank + _count_bits(bytes([below]))) * PAGE_BYTES
    return offsets


def _count_bits(data: bytes) -> int:
    return bin(int.from_bytes(data, "little")).count("1")


def open_descriptor(path: str) -> int:
    """A file descriptor to read from."""
    return os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
