"""Writes PDB files from parts that no compiler here makes: moved images, two ages, huge or damaged ones.

Own literals, nothing of the reader: MSF 7.0 blocks, an info stream, a type stream, a DBI stream with its optional
streams, and symbol records.
"""

from __future__ import annotations

import struct
import uuid

BLOCK = 4096
NOT_THERE = 0xFFFF


def msf(streams, block=BLOCK):
    """The file that holds ``streams`` (None: a deleted one): superblock, two free-block maps, streams, directory."""
    blocks = [b"", b"\xff" * block, b"\xff" * block]
    directory = [len(streams), *(0xFFFFFFFF if stream is None else len(stream) for stream in streams)]

    def add(data):
        numbers = []
        for start in range(0, len(data), block):
            numbers.append(len(blocks))
            blocks.append(data[start : start + block].ljust(block, b"\0"))
        return numbers

    for stream in streams:
        directory += add(stream or b"")
    packed = struct.pack(f"<{len(directory)}I", *directory)
    listed = add(b"".join(struct.pack("<I", number) for number in add(packed)))
    head = b"Microsoft C/C++ MSF 7.00\r\n\x1aDS\0\0\0"
    head += struct.pack("<5I", block, 1, len(blocks), len(packed), 0)
    head += b"".join(struct.pack("<I", number) for number in listed)
    blocks[0] = head.ljust(block, b"\0")
    return b"".join(blocks)


def info(guid, age, version=20000404):
    return struct.pack("<III", version, 0x5F000000, age) + uuid.UUID(guid).bytes_le


def public(name, segment, offset, kind=0x110E, flags=0):
    return symbol(struct.pack("<HIIH", kind, flags, offset, segment), name)


def procedure(name, segment, offset, size_bytes, kind=0x1110):
    return symbol(struct.pack("<HIIIIIIIIHB", kind, 0, 0, 0, size_bytes, 0, 0, 0x1000, offset, segment, 0), name)


def symbol(fixed, name):
    body = fixed + name.encode() + b"\0"
    body += b"\0" * (-(len(body) + 2) % 4)
    return struct.pack("<H", len(body)) + body


def object_file(stream, symbol_bytes, name="source.obj"):
    """An object file in the DBI stream's list: the number of its stream, whose first bytes are its symbols."""
    row = bytes(34) + struct.pack("<HIIIHHIII", stream, symbol_bytes, 0, 0, 0, 0, 0, 0, 0)
    row += name.encode() + b"\0" + name.encode() + b"\0"
    return row + bytes(-len(row) % 4)


def section(rva, size):
    return struct.pack("<8sIIIIIIHHI", b".data", size, rva, size, 0x400, 0, 0, 0, 0, 0xC0000040)


def debug(age, symbols, machine=0x8664, omap=NOT_THERE, sections=NOT_THERE, original_sections=NOT_THERE, modules=b""):
    optional = [NOT_THERE] * 11
    optional[4], optional[5], optional[10] = omap, sections, original_sections
    head = struct.pack("<iII6H", -1, 19990903, age, NOT_THERE, 0x8E1D, NOT_THERE, 0, symbols, 0)
    files = struct.pack("<HH", 0, 0)
    head += struct.pack("<iiiiiIiiHHI", len(modules), 0, 0, len(files), 0, 0, 2 * len(optional), 0, 0, machine, 0)
    return head + modules + files + struct.pack("<11H", *optional)


def types(records=()):
    packed = b"".join(struct.pack("<H", len(record)) + record for record in records)
    return struct.pack("<5I", 20040203, 56, 0x1000, 0x1000 + len(records), len(packed)).ljust(56, b"\0") + packed


def structure(name, size, field_list, properties=0, unique=""):
    body = struct.pack("<HHHIII", 0x1505, 0, properties, field_list, 0, 0) + numeric(size) + name.encode() + b"\0"
    return padded(body + (unique.encode() + b"\0" if unique else b""))


def member(name, type_index, offset):
    return padded(struct.pack("<HHI", 0x150D, 3, type_index) + numeric(offset) + name.encode() + b"\0", 0)


def enumeration(name, field_list, count=0, properties=0):
    body = struct.pack("<HHHII", 0x1507, count, properties, 0x74, field_list) + name.encode() + b"\0"
    return padded(body)


def enumerator(name, value):
    return padded(struct.pack("<HH", 0x1502, 3) + numeric(value) + name.encode() + b"\0", 0)


def numeric(number):
    if number < 0:
        return struct.pack("<Hi", 0x8003, number)
    return struct.pack("<H", number) if number < 0x8000 else struct.pack("<HI", 0x8004, number)


def field_list(*parts):
    return struct.pack("<H", 0x1203) + b"".join(parts)


def continued(type_index):
    return struct.pack("<HHI", 0x1404, 0, type_index)


def padded(data, extra=2):
    """Padding says how many bytes are left of it: F3 F2 F1; records begin on a multiple of 4 with their length."""
    missing = -(len(data) + extra) % 4
    return data + bytes(0xF0 | left for left in range(missing, 0, -1))


def large_pdb(guid, names=60_000, structures=20_000):
    """A PDB as large as a kernel's: ``Function<n>`` at RVA 1000h + 10h * n, ``_STRUCTURE_<n>`` of twelve fields."""
    fields = [member(f"Field{number}", 0x75, 4 * number) for number in range(12)]
    records = []
    for number in range(structures):
        records += [field_list(*fields), structure(f"_STRUCTURE_{number}", 48, 0x1000 + 2 * number)]
    procedures = [procedure(f"Function{number}", 1, 16 * number, 16) for number in range(names)]
    publics = [public(f"Function{number}", 1, 16 * number, flags=2) for number in range(names)]
    symbols = struct.pack("<I", 4) + b"".join(procedures)
    listed = debug(1, 5, sections=6, modules=object_file(7, len(symbols)))
    parts = [b"", info(guid, 1), types(records), listed, b"", b"".join(publics), section(0x1000, 16 * names), symbols]
    return msf(parts)
