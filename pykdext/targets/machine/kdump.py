"""kdump-compressed files: QEMU's ``dump-guest-memory -z`` (``-l``, ``-s``), libvirt's ``--format kdump-zlib``.

Layout: makedumpfile's ``diskdump_mod.h`` and IMPLEMENTATION, libkdumpfile, crash; checked against QEMU. A bitmap tells
which pages are there, a descriptor of each page where it stands and how it is packed.
"""

from __future__ import annotations

import struct
from collections import Counter
from typing import Dict, Iterator, NamedTuple, Optional, Tuple, Union

from pykdext.errors import DumpFormatError, UnsupportedDumpError, say_install
from pykdext.targets.dump.pageindex import PageIndex
from pykdext.targets.filebytes import FileBytes
from pykdext.targets.machine.decompression import NAMES, ZSTANDARD, Unpack, find_unpacker
from pykdext.targets.machine.elfcore import MAX_NOTES_BYTES, find_windows_header, parse_notes, read_qemu_processors
from pykdext.targets.machine.flattened import FlattenedFile
from pykdext.targets.machine.image import MachineImage
from pykdext.targets.machine.memory import PackedPages
from pykdext.targets.machine.signatures import FLATTENED, KDUMP
from pykdext.targets.protocol import PAGE_BYTES
from pykdext.units import count_things

MAX_PAGES = 1 << 34
"""64 TiB of memory: a bitmap of more bits is damaged."""

_SEARCHABLE_BYTES = 1 << 30
_PROBED_DESCRIPTORS = 256

_COUNTS = struct.Struct("<IIII")  # block size, blocks of the sub header, blocks of the bitmaps, pages
_COUNTS_WIDE, _COUNTS_NARROW = 0x1AC, 0x1A0
_SUB_HEADER = struct.Struct("<QIIQQQQQQQQQQQ")
_DESCRIPTOR = struct.Struct("<QIIQ")

WINDBG_HINT = "WinDbg does not open it; MemProcFS shows it as memory.dmp, which WinDbg opens"


class _Layout(NamedTuple):
    """What the headers say: where the second bitmap and the descriptors stand, how many pages there may be."""

    bitmap_at: int
    bitmap_bytes: int
    descriptors_at: int
    pages: int
    notes_at: int
    notes_bytes: int
    info_at: int
    info_bytes: int


Source = Union[FileBytes, FlattenedFile]


def open_kdump(file: FileBytes) -> MachineImage:
    """The memory of a kdump-compressed file; DumpFormatError if its headers cannot be true."""
    source: Source = FlattenedFile(file) if file.read_at(0, len(FLATTENED)) == FLATTENED else file
    warnings = source.warnings if isinstance(source, FlattenedFile) else ()
    layout = _read_layout(file.path, source)
    bitmap = source.read_at(layout.bitmap_at, layout.bitmap_bytes)
    if len(bitmap) < (layout.pages + 7) // 8:
        hint = "the copy is cut short, or the header is damaged"
        raise DumpFormatError(file.path, layout.bitmap_at, "the end of the file", "a bitmap of pages", hint)
    memory = KdumpMemory(file, source, bitmap, layout, warnings)
    memory.check_packing()
    notes = parse_notes(source.read_at(layout.notes_at, min(layout.notes_bytes, MAX_NOTES_BYTES)))
    header = find_windows_header(notes)
    if header is None:
        info = source.read_at(layout.info_at, min(layout.info_bytes, 0x2000))
        header = info if info.startswith(b"PAGEDU64") else None
    processors = read_qemu_processors(notes)
    kind = "kdump-compressed core" + (" (flattened)" if isinstance(source, FlattenedFile) else "")
    return MachineImage(kind, memory, processors, header=header, windbg_hint=WINDBG_HINT)


def _read_layout(path: str, source: Source) -> _Layout:
    head = source.read_at(0, PAGE_BYTES)
    if len(head) < 0x1D0 or not head.startswith(KDUMP):
        raise DumpFormatError(path, 0, f"signature {head[:8]!r}", "KDUMP, with a whole header", "it is cut short")
    for at in (_COUNTS_WIDE, _COUNTS_NARROW):
        block_bytes, sub_blocks, bitmap_blocks, pages = _COUNTS.unpack_from(head, at)
        if block_bytes == PAGE_BYTES:
            break
    else:
        raise UnsupportedDumpError(
            path, _COUNTS_WIDE, f"blocks of {count_things(block_bytes, 'byte')}", f"{PAGE_BYTES:,}"
        )
    sub = source.read_at(PAGE_BYTES, _SUB_HEADER.size).ljust(_SUB_HEADER.size, b"\0")
    info_at = info_bytes = notes_at = notes_bytes = 0
    if at == _COUNTS_WIDE:
        _, _, split, _, _, info_at, info_bytes, notes_at, notes_bytes, _, _, _, _, wide = _SUB_HEADER.unpack(sub)
        pages = max(pages, wide) if wide < MAX_PAGES else pages
    else:
        split = int.from_bytes(sub[8:12], "little")
        notes_at, notes_bytes = struct.unpack_from("<QI", sub, 0x20)
    if split:
        hint = "join its parts first: makedumpfile --reassemble PART1 PART2 FILE"
        raise UnsupportedDumpError(path, PAGE_BYTES, "one part of a split dump", "a whole one", hint)
    bitmap_at = (1 + sub_blocks) * PAGE_BYTES
    half = bitmap_blocks * PAGE_BYTES // 2
    if not 0 < pages <= MAX_PAGES or bitmap_at + 2 * half > source.size or (pages + 7) // 8 > half:
        raise DumpFormatError(
            path,
            at,
            f"{count_things(pages, 'page')} and bitmaps of {count_things(bitmap_blocks, 'block')}",
            f"both within the file of {count_things(source.size, 'byte')}",
            "the copy is cut short, or the header is damaged",
        )
    return _Layout(bitmap_at + half, half, bitmap_at + 2 * half, pages, notes_at, notes_bytes, info_at, info_bytes)


class KdumpMemory(PackedPages):
    """The pages of a kdump-compressed file."""

    searchable_bytes = _SEARCHABLE_BYTES

    def __init__(
        self, file: FileBytes, source: Source, bitmap: bytes, layout: _Layout, warnings: Tuple[str, ...]
    ) -> None:
        super().__init__(file, warnings)
        self._source = source
        self._index = PageIndex(bitmap, layout.pages)
        self._pages = layout.pages
        self._descriptors_at = layout.descriptors_at
        self._unpackers: Dict[int, Optional[Unpack]] = {}
        self._damaged: Dict[int, str] = {}

    @property
    def pages_expected(self) -> int:
        """Pages that the bitmap marks."""
        return self._index.present

    @property
    def present_pages(self) -> int:
        """Pages whose descriptors the file holds."""
        held = max(self._source.size - self._descriptors_at, 0) // _DESCRIPTOR.size
        return min(self._index.present, held)

    @property
    def end_address(self) -> int:
        """Where the last page ends."""
        return self._pages * PAGE_BYTES

    @property
    def warnings(self) -> Tuple[str, ...]:
        """What is wrong with the container; it may grow while pages are read."""
        if not self._damaged:
            return super().warnings
        number, reason = next(iter(self._damaged.items()))
        told = f"pages that cannot be unpacked: {len(self._damaged):,} (page 0x{number:x}: {reason})"
        return (*super().warnings, told)

    def check_packing(self) -> None:
        """UnsupportedDumpError if most of the first pages need a decompressor that is not there."""
        data = self._source.read_at(self._descriptors_at, _PROBED_DESCRIPTORS * _DESCRIPTOR.size)
        whole = len(data) // _DESCRIPTOR.size * _DESCRIPTOR.size
        counts = Counter(_find_packing(flags) for _, _, flags, _ in _DESCRIPTOR.iter_unpack(data[:whole]))
        del counts[0]
        packing, count = next(iter(counts.most_common(1)), (0, 0))
        if 2 * count > sum(counts.values()) and self._find_unpacker(packing) is None:
            name = NAMES[packing]
            hint = say_install("vm")
            if packing == ZSTANDARD:
                hint = "makedumpfile -c FILE OTHER packs it with zlib"
            raise UnsupportedDumpError(
                self._file.path, self._descriptors_at, f"pages packed with {name}", "plain or zlib pages", hint
            )

    def _find_unpacker(self, flag: int) -> Optional[Unpack]:
        if flag not in self._unpackers:
            self._unpackers[flag] = find_unpacker(flag)
        return self._unpackers[flag]

    def _iter_numbers(self, first: int, stop: int) -> Iterator[int]:
        for page, _, count in self._index.iter_runs(first, stop - first):
            yield from range(page, page + count)

    def _load_page(self, number: int) -> Optional[bytes]:
        place = self._index.find(number)
        if place < 0:
            return None
        page, reason = self._unpack(place)
        if page is None:
            self._damaged[number] = reason
        return page

    def _unpack(self, place: int) -> Tuple[Optional[bytes], str]:
        data = self._source.read_at(self._descriptors_at + place * _DESCRIPTOR.size, _DESCRIPTOR.size)
        if len(data) < _DESCRIPTOR.size:
            return None, "its descriptor is not in the file"
        offset, size, flags, _ = _DESCRIPTOR.unpack(data)
        if not 0 < size <= PAGE_BYTES or offset + size > self._source.size:
            return None, f"0x{size:x} bytes at 0x{offset:x} are no page in this file"
        packed = self._source.read_at(offset, size)
        packing = _find_packing(flags)
        if packing:
            unpack = self._find_unpacker(packing)
            if unpack is None:
                return None, f"nothing here unpacks {NAMES[packing]}"
            page = unpack(packed, PAGE_BYTES)
        else:
            page = packed
        if page is None or len(page) != PAGE_BYTES:
            return None, "its bytes do not make a page"
        return page, ""


def _find_packing(flags: int) -> int:
    """How a page is packed, by its descriptor's flags; 0: it is not."""
    return next((flag for flag in NAMES if flags & flag), 0)
