"""Dump headers, 32-bit and 64-bit: what they say, and what is refused for which reason."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pykdext.errors import DumpFormatError, NotKernelTargetError, PykdextError, UnsupportedDumpError
from pykdext.model import Machine
from pykdext.targets.dump.compressed import open_file
from pykdext.targets.dump.header import parse_header
from tests.helpers.dumpbytes import UNSET, header32, header64

RUNS = ((1, 3), (8, 2), (40, 4), (60, 1))


def parse_bytes(tmp_path, data):
    path = tmp_path / "memory.dmp"
    path.write_bytes(bytes(data))
    with open_file(str(path)) as file:
        return parse_header(file)


def test_header_of_a_32_bit_dump(tmp_path):
    data = header32(1, pae=1, dtb=0x7F1620, attributes=0x10, runs=((1, 158), (256, 16)))
    struct.pack_into("<IIII", data, 0x14, 0x81234000, 0x8055A420, 0x80558BB8, 0x14C)
    struct.pack_into("<I4I", data, 0x28, 0x8E, 0xC0000005, 0xF7A1B2C3, 3, 4)
    struct.pack_into("<I", data, 0x60, 0x80545B60)
    struct.pack_into("<QQ", data, 0xFB8, 36_000_000_000, 127_000_000_000_000_000)
    header = parse_bytes(tmp_path, data)
    assert (header.machine, header.pae_enabled, header.data_offset) == (Machine.X86, True, 0x1000)
    assert (header.dump_type, header.directory_table_base, header.build) == (1, 0x7F1620, 3790)
    assert (header.bugcheck.code, header.bugcheck.parameters) == (0x8E, (0xC0000005, 0xF7A1B2C3, 3, 4))
    assert (header.processors, header.uptime_seconds, header.taken_at.year) == (2, 3600.0, 2003)
    assert header.facts.variables == {
        "KdDebuggerDataBlock": 0x80545B60,
        "PsLoadedModuleList": 0x8055A420,
        "PsActiveProcessHead": 0x80558BB8,
    }
    assert (header.run_count, header.page_count, header.runs) == (2, 174, ((1, 158), (256, 16)))
    assert header.kind == "complete dump (type 1, taken live)"


@pytest.mark.parametrize("pae", [0, 0x50, 0x45, 2, 0xFF])
def test_pae_is_on_only_where_the_flag_is_exactly_1(tmp_path, pae):
    assert not parse_bytes(tmp_path, header32(pae=pae)).pae_enabled
    assert parse_bytes(tmp_path, header32(pae=1)).pae_enabled


def test_header_of_an_arm64_dump(tmp_path):
    header = parse_bytes(tmp_path, header64(6, machine=0xAA64))
    assert (header.machine, header.pae_enabled, header.data_offset) == (Machine.ARM64, False, 0x2000)


def test_fields_that_were_never_set_are_absent(tmp_path):
    for data in (header32(), header64()):
        header = parse_bytes(tmp_path, data)
        assert header.bugcheck is None
        assert header.taken_at is header.uptime_seconds is None
        assert (header.run_count, header.runs, header.facts.variables, header.attributes) == (None, (), {}, 0)


@pytest.mark.parametrize(
    ("dump_type", "attributes", "kind"),
    [
        (1, None, "complete dump (type 1)"),
        (2, None, "kernel summary dump (type 2)"),
        (4, None, "small memory dump (type 4)"),
        (5, None, "full bitmap dump (type 5)"),
        (6, 0x40, "kernel bitmap dump (type 6, active memory only)"),
        (6, 0x10, "kernel bitmap dump (type 6, taken live)"),
        (7, None, "kernel bitmap dump (type 7)"),
        (8, None, "kernel range dump (type 8)"),
        (9, None, "kernel and user range dump (type 9)"),
        (10, None, "complete range dump (type 10)"),
    ],
)
def test_kinds_in_words(tmp_path, dump_type, attributes, kind):
    for make in (header32, header64):
        header = parse_bytes(tmp_path, make(dump_type, attributes=attributes))
        assert header.kind == kind
        assert not header.is_incomplete
    assert parse_bytes(tmp_path, header64(dump_type, attributes=4)).is_incomplete


def set_dword(offset, value, make=header64):
    data = make(6)
    struct.pack_into("<I", data, offset, value)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "error", "word"),
    [
        (b"", DumpFormatError, "empty file"),
        (bytes(0x3000), DumpFormatError, "zeros"),
        (b"hello, world", DumpFormatError, "hello"),
        (b"PAGEDUMP" + bytes(0xFF0), DumpFormatError, "cut short"),
        (b"PAGEDU64" + bytes(0x1000), DumpFormatError, "cut short"),
        (b"PAGEDU6X" + bytes(0x2000), DumpFormatError, "PAGEDU6X"),
        (b"MDMP" + bytes(0x100), NotKernelTargetError, "user-mode"),
        (b"hibr" + bytes(0x1000), DumpFormatError, "hibernation"),
        (b"HIBR" + bytes(0x1000), DumpFormatError, "hibernation"),
        (b"\x7fELF" + bytes(100), DumpFormatError, "ELF"),
        (set_dword(0xF98, 3), UnsupportedDumpError, "header-only"),
        (set_dword(0xF98, 0), DumpFormatError, "0x0"),
        (set_dword(0xF98, 77), DumpFormatError, "0x4d"),
        (set_dword(0xF98, UNSET), DumpFormatError, "no DumpType"),
        (set_dword(0xF88, 3, header32), UnsupportedDumpError, "header-only"),
        (set_dword(0xF88, UNSET, header32), DumpFormatError, "no DumpType"),
        (set_dword(0x30, 0x14C), UnsupportedDumpError, "x86"),
        (set_dword(0x30, 0x200), UnsupportedDumpError, "Itanium"),
        (set_dword(0x30, 0x1234), UnsupportedDumpError, "0x1234"),
        (set_dword(0x20, 0x8664, header32), UnsupportedDumpError, "x64"),
        (set_dword(0x20, 0x1C4, header32), UnsupportedDumpError, "ARM"),
        (set_dword(0x1050, 0x100), UnsupportedDumpError, "encrypted"),
        (set_dword(0x8A0, 0x100, header32), UnsupportedDumpError, "encrypted"),
        (bytes(header64(6, dtb=0)), DumpFormatError, "DirectoryTableBase"),
        (bytes(header64(6, dtb=0x4547415045474150)), DumpFormatError, "DirectoryTableBase"),
        (bytes(header32(2, dtb=UNSET)), DumpFormatError, "DirectoryTableBase"),
    ],
)
def test_what_is_not_read_is_refused_in_one_line(tmp_path, data, error, word):
    with pytest.raises(error) as caught:
        parse_bytes(tmp_path, data)
    text = str(caught.value)
    assert word in text
    assert str(tmp_path / "memory.dmp") in text
    assert "\n" not in text


def test_unset_attributes_mean_none_set(tmp_path):
    data = header64(6)
    assert struct.unpack_from("<I", data, 0x1050)[0] & 0x100  # read literally, the filler would say "encrypted"
    assert parse_bytes(tmp_path, data).attributes == 0


@settings(max_examples=200)
@given(st.booleans(), st.lists(st.tuples(st.integers(0, 0xFF0), st.binary(min_size=1, max_size=9)), max_size=5))
def test_damaged_dump_headers_end_in_our_errors(tmp_path_factory, wide, changes):
    data = header64(1, runs=RUNS) if wide else header32(1, runs=RUNS)
    for offset, value in changes:
        data[offset : offset + len(value)] = value
    try:
        header = parse_bytes(tmp_path_factory.getbasetemp(), data)
    except PykdextError:
        return
    assert header.machine.pointer_size * 8 == header.format.bits
    assert len(header.runs) <= header.format.max_runs
