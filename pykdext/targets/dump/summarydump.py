"""Summary dumps (type 2): the kernel dumps of Windows before 8.

A bitmap tells which pages are stored, as in the later bitmap dumps, behind a smaller header. Layout: the public
SUMMARY_DUMP structures of the SDK and WDK, whose 64-bit form no open tool reads: so the bitmap's place is believed
only where the bitmap marks as many pages as the header counts.
"""

from __future__ import annotations

from typing import Optional

from construct import ConstError

from pykdext.errors import DumpFormatError, UnsupportedDumpError
from pykdext.targets.dump.format import SUMMARY_HEADER, SUMMARY_HEADER_BYTES
from pykdext.targets.dump.header import DumpHeader
from pykdext.targets.dump.pageindex import PageIndex
from pykdext.targets.dump.pages import PageBitmap
from pykdext.targets.filebytes import FileBytes

_BITMAP_OFFSETS = {32: (0x20, 0x28, 0x38), 64: (0x28, 0x20, 0x38)}
"""Where the bitmap may stand in the summary header, by the width of the dump; the documented place first."""


def open_summary_dump(file: FileBytes, header: DumpHeader) -> PageBitmap:
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
            f"an offset within the file of {file.size:,} bytes",
            "the copy is cut short, or the header is damaged",
        )
    for offset in _BITMAP_OFFSETS[header.format.bits]:
        index = _read_bitmap(file, start + offset, fields.BitmapSize, fields.HeaderSize)
        if index is not None and index.present == fields.Pages:
            return PageBitmap(file, fields.HeaderSize, index, fields.Pages, start + offset)
    raise UnsupportedDumpError(
        file.path,
        start,
        f"no bitmap of {fields.BitmapSize:,} bits that marks {fields.Pages:,} pages",
        f"one before the page data at 0x{fields.HeaderSize:x}",
        "the file is damaged; if it is not, open it in WinDbg and write it anew with .dump /f",
    )


def _read_bitmap(file: FileBytes, offset: int, bits: int, limit: int) -> Optional[PageIndex]:
    """The bitmap at ``offset``; None if it goes on behind ``limit``."""
    length = (bits + 7) // 8
    if offset + length > limit:
        return None
    return PageIndex(file.read_at(offset, length), bits)
