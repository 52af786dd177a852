"""Opens the physical memory inside a dump file, whichever way the file tells which pages it holds.

A container answers from what the file really holds: every count of its headers is checked against the file's
size. What cannot be true is refused; a file that was merely cut is read as far as it goes, and one whose bitmap has a
wrong bit as far as the memory proves where its pages stand.
"""

from __future__ import annotations

from typing import Tuple

from construct import ConstError

from pykdext.errors import DumpFormatError
from pykdext.targets.dump.format import BITMAP_HEADER, BITMAP_HEADER_BYTES
from pykdext.targets.dump.header import (
    COMPLETE_RANGE_DUMP,
    FULL_DUMP,
    KERNEL_AND_USER_RANGE_DUMP,
    KERNEL_RANGE_DUMP,
    SUMMARY_DUMP,
    DumpHeader,
)
from pykdext.targets.dump.pageindex import PageIndex
from pykdext.targets.dump.pageplaces import open_bitmap
from pykdext.targets.dump.pages import PageBitmap, PageRuns, PagesInFile, check_runs
from pykdext.targets.filebytes import FileBytes
from pykdext.units import count_things

MAX_BITMAP_PAGES = 1 << 34
"""64 TiB of memory, more than any Windows can use: a bitmap of more bits is damaged."""


def open_container(file: FileBytes, header: DumpHeader) -> PagesInFile:
    """The physical memory of a dump with this header, or DumpFormatError: it is damaged beyond use."""
    if header.dump_type == FULL_DUMP:
        return _open_full_dump(file, header)
    if header.dump_type == SUMMARY_DUMP:
        from pykdext.targets.dump.summarydump import open_summary_dump

        return open_summary_dump(file, header)
    if header.dump_type in (KERNEL_RANGE_DUMP, KERNEL_AND_USER_RANGE_DUMP, COMPLETE_RANGE_DUMP):
        from pykdext.targets.dump.rangedump import open_range_dump

        return open_range_dump(file, header)
    return _open_bitmap_dump(file, header)


def _open_full_dump(file: FileBytes, header: DumpHeader) -> PageRuns:
    """A complete dump: the header's runs of pages, stored right behind it."""
    form = header.format
    if not header.run_count or header.run_count > form.max_runs:
        found = "no memory runs" if not header.run_count else count_things(header.run_count, "memory run")
        hint = "the header is damaged or not finished"
        raise DumpFormatError(file.path, form.memory_block_offset, found, f"1 to {form.max_runs}", hint)
    first_pages = [page for page, _ in header.runs]
    counts = [count for _, count in header.runs]
    check_runs(file.path, form.runs_offset, first_pages, counts)
    notes: Tuple[str, ...] = ()
    if header.page_count not in (None, sum(counts)):
        notes = (f"the header counts {count_things(header.page_count, 'page')}, its memory runs {sum(counts):,}",)
    return PageRuns(file, header.data_offset, first_pages, counts, notes)


def _open_bitmap_dump(file: FileBytes, header: DumpHeader) -> PagesInFile:
    """A bitmap dump (types 5, 6, 7): one bit tells of each page whether it is stored, behind the bitmap."""
    start = header.data_offset
    data = file.read_at(start, BITMAP_HEADER_BYTES)
    if len(data) < BITMAP_HEADER_BYTES:
        raise DumpFormatError(file.path, file.size, "the end of the file", "a bitmap header", "the copy is cut short")
    try:
        fields = BITMAP_HEADER.parse(data)
    except ConstError as error:
        raise _not_a_bitmap(file.path, start, data) from error
    if fields.Signature not in (b"SDMP", b"FDMP"):
        raise _not_a_bitmap(file.path, start, data)
    bitmap_start = start + BITMAP_HEADER_BYTES
    bits = fields.Pages
    room_bits = 8 * (fields.FirstPage - bitmap_start)
    if 0 < room_bits < bits <= MAX_BITMAP_PAGES and fields.FirstPage <= file.size:
        index = PageIndex(file.read_at(bitmap_start, room_bits // 8), room_bits)
        if index.present == fields.TotalPresentPages:  # the bitmap is whole: only its length is told wrongly
            note = (
                f"the header counts {count_things(bits, 'bit')} of its bitmap, which ends after "
                f"{room_bits:,} at the latest"
            )
            return PageBitmap(file, fields.FirstPage, index, fields.TotalPresentPages, (note,))
    bitmap_end = bitmap_start + (bits + 7) // 8
    if bits > MAX_BITMAP_PAGES or bitmap_end > file.size or fields.FirstPage > file.size:
        raise DumpFormatError(
            file.path,
            start + 0x20,
            f"a bitmap of {count_things(bits, 'bit')} and page data at 0x{fields.FirstPage:x}",
            f"both within the file of {count_things(file.size, 'byte')}",
            "the copy is cut short, or the header is damaged",
        )
    if fields.FirstPage < bitmap_end:
        raise DumpFormatError(
            file.path,
            start + 0x20,
            f"page data at 0x{fields.FirstPage:x}",
            f"0x{bitmap_end:x} or more: behind the bitmap",
        )
    index = PageIndex(file.read_at(bitmap_start, bitmap_end - bitmap_start), bits)
    return open_bitmap(file, header.facts, index, fields.FirstPage, fields.TotalPresentPages, bitmap_start)


def _not_a_bitmap(path: str, offset: int, data: bytes) -> DumpFormatError:
    return DumpFormatError(path, offset, f"signature {data[:8]!r}", "SDMPDUMP or FDMPDUMP")
