"""Dump files as bytes, made by hand: every offset is written out here, none comes from the reader."""

from __future__ import annotations

import struct

PAGE = 0x1000
UNSET = 0x45474150  # the text PAGE, with which the kernel fills a header


def page_of(number):
    """A page whose every 8 bytes tell its number."""
    return struct.pack("<Q", number) * 512


def header64(dump_type=6, *, machine=0x8664, dtb=0x1AD002, attributes=None, runs=(), minidump_fields=None):
    data = bytearray(b"PAGE" * 0x800)
    data[4:8] = b"DU64"
    struct.pack_into("<II", data, 0x08, 15, 19041)
    struct.pack_into("<Q", data, 0x10, dtb)
    struct.pack_into("<II", data, 0x30, machine, 4)
    struct.pack_into("<I", data, 0xF98, dump_type)
    if attributes is not None:
        struct.pack_into("<I", data, 0x1050, attributes)
    if minidump_fields is not None:
        struct.pack_into("<I", data, 0x1038, minidump_fields)
    if runs:
        struct.pack_into("<IIQ", data, 0x88, len(runs), 0, sum(count for _, count in runs))
        for number, (base, count) in enumerate(runs):
            struct.pack_into("<QQ", data, 0x98 + 16 * number, base, count)
    return data


def header32(dump_type=2, *, machine=0x14C, dtb=0x39000, pae=0x50, attributes=None, runs=(), minidump_fields=None):
    data = bytearray(b"PAGE" * 0x400)
    data[4:8] = b"DUMP"
    struct.pack_into("<III", data, 0x08, 15, 3790, dtb)
    struct.pack_into("<II", data, 0x20, machine, 2)
    data[0x5C] = pae
    struct.pack_into("<I", data, 0xF88, dump_type)
    if attributes is not None:
        struct.pack_into("<I", data, 0x8A0, attributes)
    if minidump_fields is not None:
        struct.pack_into("<I", data, 0xF8C, minidump_fields)
    if runs:
        struct.pack_into("<II", data, 0x64, len(runs), sum(count for _, count in runs))
        for number, (base, count) in enumerate(runs):
            struct.pack_into("<II", data, 0x6C + 8 * number, base, count)
    return data


def header_of(width, dump_type, **fields):
    return bytes((header64 if width == 64 else header32)(dump_type, **fields))


def pack_bitmap(pages, bits):
    bitmap = bytearray((bits + 7) // 8)
    for number in pages:
        bitmap[number // 8] |= 1 << number % 8
    return bytes(bitmap)


def pages_data(pages):
    return b"".join(page_of(number) for number in pages)


def bitmap_dump(pages, bits, *, width=64, signature=b"SDMP", present=None, first_page=None, dump_type=6, extra_bits=()):
    """A bitmap dump of ``pages`` (numbers). ``extra_bits`` are set behind ``bits``, in the last byte."""
    bitmap = pack_bitmap([*pages, *extra_bits], bits)
    head = header_of(width, dump_type)
    if first_page is None:
        first_page = len(head) + 0x38 + len(bitmap)
    if present is None:
        present = len(pages)
    start = signature + b"DUMP" + bytes(0x18) + struct.pack("<QQQ", first_page, present, bits)
    return head + start + bitmap + pages_data(sorted(pages))


def full_dump(runs, *, width=64, cut_pages=0):
    numbers = [base + i for base, count in runs for i in range(count)]
    return header_of(width, 1, runs=runs) + pages_data(numbers[: len(numbers) - cut_pages])


def summary_dump(pages, bits, *, width=32, bitmap_offset=None, present=None, first_page=None):
    """A summary dump (type 2); the 64-bit form has a wider bitmap structure before the bits."""
    bitmap = pack_bitmap(pages, bits)
    head = header_of(width, 2)
    if bitmap_offset is None:
        bitmap_offset = 0x20 if width == 32 else 0x28
    if first_page is None:
        first_page = (len(head) + bitmap_offset + len(bitmap) + 0xFFF) & ~0xFFF
    if present is None:
        present = len(pages)
    start = b"SDMPDUMP" + struct.pack("<IIIII", 1, first_page, bits, present, bits)
    start = start.ljust(0x20, b"\0")[:0x20].ljust(bitmap_offset, b"\0") + bitmap
    return (head + start).ljust(first_page, b"\0") + pages_data(sorted(pages))


def range_dump(ranges, *, dump_type=8, total=None, metadata=0x200, tail=b"", width=64, end=(0, 0)):
    """A range dump (types 8, 9, A): pages in the order of the ranges. ``tail`` follows the list within the metadata."""
    pages = [base + i for base, count in ranges for i in range(count)]
    if total is None:
        total = len(pages)
    head = header_of(width, dump_type)
    first_page = len(head) + 0x20 + metadata
    start = struct.pack("<I4s4sIQQ", 0x40, b"RDMP", b"DUMP", 0, metadata, first_page)
    start += struct.pack("<IIQ", len(ranges), 0, total) if dump_type == 10 else struct.pack("<QQ", 0x1122, 0x3344)
    start += b"".join(struct.pack("<QQ", *item) for item in [*ranges, end]) + tail
    return head + start.ljust(0x20 + metadata, b"\0") + pages_data(pages)


class TriageBytes:
    """A small memory dump (type 4): ``data`` is the file, ``start`` where its triage header stands.

    ``drivers``: ``(path, base, size, timestamp, checksum)``; ``unloaded``: ``(name, start, end)``; ``blocks``,
    ``stack``, ``page``: ``(address, bytes)``.
    """

    ALL_PARTS = 0xFFF

    def __init__(
        self,
        width=64,
        *,
        machine=None,
        drivers=(),
        unloaded=(),
        blocks=(),
        stack=(0, b""),
        page=(0, b""),
        kdbg=None,
        kdbg_address=0,
        stride=None,
        parts=ALL_PARTS,
    ):
        wide = width == 64
        self.start = 0x2000 if wide else 0x1000
        head = (header64 if wide else header32)(
            4, machine=machine or (0x8664 if wide else 0x14C), minidump_fields=parts
        )
        struct.pack_into("<Q" if wide else "<I", head, 0x80 if wide else 0x60, kdbg_address)
        self.data = bytearray(head) + bytes(0x80 if wide else 0x68)
        unloaded_at = self._append(
            struct.pack("<Q" if wide else "<I", len(unloaded))
            + b"".join(self._unloaded_driver(wide, *driver) for driver in unloaded)
        )
        kdbg_at = self._append(kdbg or b"")
        stride = stride or (0x90 if wide else 0x4C)
        drivers_at = self._append(bytes(stride * len(drivers)))
        self._append(b"")  # the strings begin at the next multiple of 8
        strings_at = len(self.data)
        for number, (path, base, size, timestamp, checksum) in enumerate(drivers):
            entry = drivers_at + stride * number
            text = path.encode("utf-16-le")
            name_at = self._append(struct.pack("<I", len(text) // 2) + text + b"\0\0")
            offsets = (0x38, 0x48, 0x80, 0x88) if wide else (0x1C, 0x24, 0x44, 0x48)
            struct.pack_into("<I", self.data, entry, name_at)
            struct.pack_into("<Q" if wide else "<I", self.data, entry + offsets[0], base)
            for offset, value in zip(offsets[1:], (size, checksum, timestamp)):
                struct.pack_into("<I", self.data, entry + offset, value)
        strings_size = len(self.data) - strings_at
        stack_at = self._append(stack[1])
        page_at = self._append(page[1])
        blocks_at = self._append(bytes(struct.calcsize("<QII") * len(blocks)))
        for number, (address, content) in enumerate(blocks):
            extended = address if wide else address | 0xFFFFFFFF00000000  # kernel addresses, sign extended
            item = struct.pack("<QII", extended, self._append(content), len(content))
            self.data[blocks_at + number * len(item) : blocks_at + (number + 1) * len(item)] = item
        valid_at = self._append(b"TRGD")
        words = [0, len(self.data), valid_at, 0x348 if wide else 0x320, 0xF00 if wide else 0x7D0, 0, unloaded_at, 0]
        words += [0, 0, stack_at, len(stack[1]), drivers_at, len(drivers), strings_at, strings_size, 0, 0xFFFFFFFF]
        struct.pack_into("<18I", self.data, self.start, *words)
        rest = (page_at, len(page[1]), kdbg_at, len(kdbg or b""), blocks_at, len(blocks))
        if wide:
            struct.pack_into("<Q16xQ6I", self.data, self.start + 0x48, stack[0], page[0], *rest)
        else:
            struct.pack_into("<II6I", self.data, self.start + 0x48, stack[0], page[0], *rest)

    def _append(self, data):
        """The offset of ``data``, now at the end of the file, at a multiple of 8."""
        self.data += bytes(-len(self.data) % 8)
        self.data += data
        return len(self.data) - len(data)

    @staticmethod
    def _unloaded_driver(wide, name, start, end):
        text = name.encode("utf-16-le")[:24]
        string = struct.pack("<HHIQ" if wide else "<HHI", len(text), len(text), 0, *([0] if wide else []))
        return string + text.ljust(24, b"\0") + struct.pack("<QQ" if wide else "<II", start, end)

    def set(self, offset, value):
        """Set a 32-bit field of the triage header."""
        struct.pack_into("<I", self.data, self.start + offset, value)
        return self


def debugger_data(size, members, tag=b"KDBG"):
    """KDDEBUGGER_DATA64 with ``members`` {offset: value}."""
    data = bytearray(size)
    data[0x10:0x14] = tag
    struct.pack_into("<I", data, 0x14, size)
    for offset, value in members.items():
        struct.pack_into("<Q", data, offset, value)
    return bytes(data)
