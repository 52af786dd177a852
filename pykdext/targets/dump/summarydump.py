"""Summary dumps (type 2): the kernel dumps of Windows before 8.

A bitmap tells which pages are stored, as in the later bitmap dumps, behind a smaller header. Layout: the public
SUMMARY_DUMP structures of the SDK and WDK, whose 64-bit form no open tool reads: so the bitmap's place is believed
only where the bitmap marks as many pages as the header counts, or where the memory itself proves it.
"""

from __future__ import annotations

from typing import Any, Optional

from construct import ConstError

from pykdext.errors import DumpFormatError, UnsupportedDumpError
from pykdext.targets.dump.format import SUMMARY_HEADER, SUMMARY_HEADER_BYTES
from pykdext.targets.dump.header import DumpHeader
from pykdext.targets.dump.pageindex import PageIndex
from pykdext.targets.dump.pageplaces import open_bitmap
from pykdext.targets.dump.pages import PageBitmap, PagesInFile
from pykdext.targets.filebytes import FileBytes
from pykdext.units import count_things

_OFFSETS = {32: (0x20, 0x28, 0x38), 64: (0x28, 0x20, 0x38)}
"""Where the bitmap may stand in the summary header, by the width of the dump; the documented place first."""

MAX_WRONG_BITS = 8
"""Of a bitmap whose place is not certain either."""


def open_summary_dump(file: FileBytes, header: DumpHeader) -> PagesInFile:
    """The physical memory of a summary dump, or DumpFormatError: its header or its bitmap cannot be true."""
    start = header.data_offset
    data = file.read_at(start, SUMMARY_HEADER_BYTES)
    if len(data) < SUMMARY_HEADER_BYTES:
        raise DumpFormatError(file.path, file.size, "the end of the file", "a summary header", "the copy is cut short")
    try:
        fields = SUMMARY_HEADER.parse(data)
    except ConstError as error:
        raise DumpFormatError(file.path, start, f"signature {data[:8]!r}", "SDMPDUMP") from error
    if fields.HeaderSize > file.size:
        raise DumpFormatError(
            file.path,
            start + 0xC,
            f"page data at 0x{fields.HeaderSize:x}",
            f"an offset within the file of {count_things(file.size, 'byte')}",
            "the copy is cut short, or the header is damaged",
        )
    places = ((start + offset, _read_bitmap(file, start + offset, fields)) for offset in _OFFSETS[header.format.bits])
    bitmaps = [(offset, index) for offset, index in places if index is not None]
    for _, index in bitmaps:
        if index.present == fields.Pages:
            return PageBitmap(file, fields.HeaderSize, index, fields.Pages)
    for offset, index in bitmaps:
        if abs(index.present - fields.Pages) <= MAX_WRONG_BITS:
            return open_bitmap(file, header.facts, index, fields.HeaderSize, fields.Pages, offset)
    raise UnsupportedDumpError(
        file.path,
        start,
        f"no bitmap of {count_things(fields.BitmapSize, 'bit')} that marks {count_things(fields.Pages, 'page')}",
        f"one before the page data at 0x{fields.HeaderSize:x}",
        "the file is damaged; if it is not, open it in WinDbg and write it anew with .dump /f",
    )


def _read_bitmap(file: FileBytes, offset: int, fields: Any) -> Optional[PageIndex]:
    """The bitmap at ``offset``; None if it goes on behind the begin of the pages."""
    length = (fields.BitmapSize + 7) // 8
    if offset + length > fields.HeaderSize:
        return None
    return PageIndex(file.read_at(offset, length), fields.BitmapSize)
