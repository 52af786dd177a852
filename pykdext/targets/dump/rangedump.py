"""Range dumps (types 8, 9, A): what newer debuggers write with ``.dump /k``, ``/ka`` and ``/f``.

A list behind the headers gives ranges of pages; the pages are packed in the list's order. Layout: kdmp-parser.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left
from itertools import accumulate
from typing import Tuple

from construct import ConstError

from pykdext.errors import DumpFormatError
from pykdext.targets.dump.format import RANGE_HEADER, RANGE_HEADER_BYTES
from pykdext.targets.dump.header import COMPLETE_RANGE_DUMP, DumpHeader
from pykdext.targets.dump.pages import PageRuns, check_runs
from pykdext.targets.filebytes import FileBytes
from pykdext.targets.protocol import PAGE_BYTES
from pykdext.units import count_things

MAX_RANGES = 1 << 22
"""Far more ranges than memory falls into: a list that goes on behind them is damaged."""

_RANGE_BYTES = 0x10
_METADATA_OFFSET = 0x20
"""MetadataSize counts from here, behind FirstPageOffset's field, to the first page."""

Ranges = Tuple["array[int]", "array[int]"]
"""The number of each range's first page, and how many pages it has."""


def open_range_dump(file: FileBytes, header: DumpHeader) -> PageRuns:
    """The physical memory of a range dump, or DumpFormatError: its headers or its list cannot be true."""
    start = header.data_offset
    data = file.read_at(start, RANGE_HEADER_BYTES)
    if len(data) < RANGE_HEADER_BYTES:
        raise DumpFormatError(file.path, file.size, "the end of the file", "a range header", "the copy is cut short")
    try:
        fields = RANGE_HEADER.parse(data)
    except ConstError as error:
        raise DumpFormatError(file.path, start, f"signature {data[:12]!r}", "RDMPDUMP behind 40h") from error
    if fields.FirstPageOffset != start + _METADATA_OFFSET + fields.MetadataSize:
        raise DumpFormatError(
            file.path,
            start + 0x10,
            f"metadata of {count_things(fields.MetadataSize, 'byte')} and page data at 0x{fields.FirstPageOffset:x}",
            "page data right behind the metadata",
            "the header is damaged",
        )
    if fields.FirstPageOffset > file.size:
        raise DumpFormatError(
            file.path,
            start + 0x18,
            f"page data at 0x{fields.FirstPageOffset:x}",
            f"an offset within the file of {count_things(file.size, 'byte')}",
            "the copy is cut short, or the header is damaged",
        )
    list_offset = start + RANGE_HEADER_BYTES
    is_complete = header.dump_type == COMPLETE_RANGE_DUMP
    ranges = _read_list(file, list_offset, fields.FirstPageOffset, is_complete=is_complete)
    warnings: Tuple[str, ...] = ()
    if is_complete:
        ranges, warnings = _take_announced(file, fields.FirstPageOffset, ranges, fields.TotalNumberOfPages)
    if not ranges[0]:
        raise DumpFormatError(file.path, list_offset, "no ranges of pages", "at least one", "the header is damaged")
    check_runs(file.path, list_offset, *ranges)
    return PageRuns(file, fields.FirstPageOffset, *ranges, notes=warnings)


def _read_list(file: FileBytes, start: int, end: int, *, is_complete: bool) -> Ranges:
    """The list's ranges between two file offsets, up to the one that ends it.

    A range from page 0 ends the list of a kernel dump; a complete dump may hold page 0, so that there only a range
    without pages does.
    """
    length = max(end - start, 0) // _RANGE_BYTES * _RANGE_BYTES
    words = array("Q", file.read_at(start, min(length, MAX_RANGES * _RANGE_BYTES)))
    if sys.byteorder == "big":
        words.byteswap()
    pages, counts = words[0::2], words[1::2]
    try:
        stop = (counts if is_complete else pages).index(0)
    except ValueError:
        stop = len(pages)
    if stop == MAX_RANGES:
        raise DumpFormatError(
            file.path, start, f"{count_things(stop, 'range')} of pages or more", "fewer", "the list is damaged"
        )
    return pages[:stop], counts[:stop]


def _are_ranges(file: FileBytes, pages: array[int], counts: array[int]) -> bool:
    """Whether all of a list can be true."""
    try:
        check_runs(file.path, 0, pages, counts)
    except DumpFormatError:
        return False
    return True


def _take_announced(
    file: FileBytes, data_offset: int, ranges: Ranges, announced: int
) -> Tuple[Ranges, Tuple[str, ...]]:
    """The ranges of a complete dump that make up its TotalNumberOfPages: something else may stand behind them.

    Where none end there, or what stands behind are ranges as well, the file's size decides whether the list or the
    total is right.
    """
    pages, counts = ranges
    ends = list(accumulate(counts))
    stop = bisect_left(ends, announced) + 1
    listed = ends[-1] if ends else 0
    fits_file = data_offset + listed * PAGE_BYTES == file.size
    if stop <= len(ends) and ends[stop - 1] == announced and not (fits_file and listed != announced):
        taken = pages[:stop], counts[:stop]
        if stop == len(ends) or not _are_ranges(file, pages, counts):
            return taken, ()
        return taken, (
            f"the header counts {count_things(announced, 'page')}, its ranges {listed:,}: "
            f"those behind are left out, and if the list "
            "is wrong, pages may be others than they seem",
        )
    if not fits_file:
        raise DumpFormatError(
            file.path,
            data_offset,
            f"ranges of {count_things(listed, 'page')}",
            f"{announced:,} as the header counts",
            "the file is damaged where it tells which page is which; copy it again",
        )
    return ranges, (f"the header counts {count_things(announced, 'page')}, its ranges and the file {listed:,}",)
