"""The forge's small dumps, read back by their offsets."""

from __future__ import annotations

import struct

import pytest

from dumps.forge import BUILDS_BY_ARCH, forge

MACHINES = [(arch, build) for arch, builds in BUILDS_BY_ARCH.items() for build in builds]
NAMES = (
    *("ServicePackBuild", "SizeOfDump", "ValidOffset", "ContextOffset", "ExceptionOffset", "MmOffset"),
    *("UnloadedDriversOffset", "PrcbOffset", "ProcessOffset", "ThreadOffset", "CallStackOffset", "SizeOfCallStack"),
    *("DriverListOffset", "DriverCount", "StringPoolOffset", "StringPoolSize", "BrokenDriverOffset", "TriageOptions"),
)
TAIL = ("DebuggerDataOffset", "DebuggerDataSize", "DataBlocksOffset", "DataBlocksCount")


@pytest.fixture(params=MACHINES, ids=str)
def small(request, tmp_path):
    arch, build = request.param
    machine = forge("pipo", arch=arch, build=build)
    machine.save(tmp_path / "m.dmp", kind=4)
    data = (tmp_path / "m.dmp").read_bytes()
    narrow = arch.startswith("x86")
    start = 0x1000 if narrow else 0x2000
    fields = dict(zip(NAMES, struct.unpack_from("<18I", data, start)))
    fields.update(zip(TAIL, struct.unpack_from("<4I", data, start + (0x58 if narrow else 0x70))))
    fields["TopOfStack"] = struct.unpack_from("<I" if narrow else "<Q", data, start + 0x48)[0]
    return machine, data, fields, narrow, build


def test_header(small):
    _, data, fields, narrow, build = small
    type_at, fields_at, runs_at, size_at = (0xF88, 0xF8C, 0x64, 0xFA0) if narrow else (0xF98, 0x1038, 0x88, 0xFA0)
    assert struct.unpack_from("<I", data, type_at) == (4,)
    assert struct.unpack_from("<I", data, fields_at) == (0xCFF | (0x100 if build < 10240 else 0),)
    assert data[runs_at : runs_at + 16] == b"PAGE" * 4
    assert struct.unpack_from("<Q", data, size_at) == (len(data),)
    assert fields["SizeOfDump"] == len(data) == fields["ValidOffset"] + 4
    assert data[-4:] == b"TRGD"
    assert (fields["ContextOffset"], fields["ExceptionOffset"]) == ((0x320, 0x7D0) if narrow else (0x348, 0xF00))
    assert fields["TriageOptions"] == 0xFFFFFFFF


def test_drivers(small):
    machine, data, fields, narrow, _ = small
    stride = (fields["StringPoolOffset"] - fields["DriverListOffset"]) // fields["DriverCount"]
    assert stride == (0x4C if narrow else 0x90)
    base_at, size_at, stamp_at, word = (0x1C, 0x24, 0x48, "<I") if narrow else (0x38, 0x48, 0x88, "<Q")
    drivers = []
    for n in range(fields["DriverCount"]):
        entry = fields["DriverListOffset"] + n * stride
        name_at, base = struct.unpack_from("<I", data, entry)[0], struct.unpack_from(word, data, entry + base_at)[0]
        length = struct.unpack_from("<I", data, name_at)[0]
        path = data[name_at + 4 : name_at + 4 + 2 * length].decode("utf-16-le")
        assert data[name_at + 4 + 2 * length : name_at + 6 + 2 * length] == b"\0\0"
        size, stamp = (struct.unpack_from("<I", data, entry + at)[0] for at in (size_at, stamp_at))
        drivers.append((path.rsplit("\\", 1)[1], base, size, stamp))
    expected = [tuple(module) for module in machine.truth.modules]
    if machine.kernel.file_name != "ntoskrnl.exe":
        expected[0] = ("ntkrnlpa.exe", *expected[0][1:])
    assert drivers == expected


def test_unloaded_drivers(small):
    machine, data, fields, narrow, _ = small
    at = fields["UnloadedDriversOffset"]
    word, size, name_at = ("<I", 0x28, 8) if narrow else ("<Q", 0x38, 0x10)
    assert struct.unpack_from(word, data, at) == (len(machine.truth.unloaded),)
    at += 4 if narrow else 8
    for name, start, end in machine.truth.unloaded:
        length = struct.unpack_from("<H", data, at)[0]
        assert data[at + name_at : at + name_at + length].decode("utf-16-le") == name[:12]
        assert struct.unpack_from("<II" if narrow else "<QQ", data, at + name_at + 0x18) == (start, end)
        at += size


def test_debugger_data_and_blocks(small):
    machine, data, fields, narrow, _ = small
    block = data[fields["DebuggerDataOffset"] :][: fields["DebuggerDataSize"]]
    assert block == machine.read_virtual(machine.addresses["KDBG"], len(block))
    assert block[0x10:0x14] == b"KDBG"
    layout = struct.Struct("<QII")
    blocks = [
        layout.unpack_from(data, fields["DataBlocksOffset"] + n * layout.size) for n in range(fields["DataBlocksCount"])
    ]
    assert len(blocks) == 28
    upper = 0xFFFFFFFF00000000 if narrow else 0
    assert all(va & upper == upper for va, *_ in blocks)
    for va, offset, size in blocks:
        assert data[offset : offset + size] == machine.read_virtual(va - upper, size)
        assert offset + size <= fields["ValidOffset"]
    held = {va - upper for va, *_ in blocks}
    assert {machine.addresses[name] for name in ("nt", "KiProcessorBlock", "processor:0", "processor:3")} < held
    assert b"Pipo" not in data
    stack = data[fields["CallStackOffset"] :][: fields["SizeOfCallStack"]]
    words = struct.unpack(f"<{len(stack) // 4}I" if narrow else f"<{len(stack) // 8}Q", stack)
    modules = machine.truth.modules
    assert all(any(base < word < base + size for _, base, size, _ in modules) for word in words)
    assert fields["TopOfStack"] == machine.addresses["stack:0"]
    assert stack == machine.read_virtual(fields["TopOfStack"], len(stack))


def test_processor_process_and_thread(small):
    machine, data, fields, _, _ = small
    sizes = machine.kernel.sizes
    for name, field, size in (
        ("processor:0", "PrcbOffset", sizes.prcb),
        ("process", "ProcessOffset", sizes.eprocess),
        ("thread:0", "ThreadOffset", sizes.ethread),
    ):
        assert data[fields[field] : fields[field] + size] == machine.read_virtual(machine.addresses[name], size)


def test_pool_totals(small):
    machine, data, fields, narrow, build = small
    assert struct.unpack_from("<II", data, fields["MmOffset"]) == (1, 0x34 if narrow else 0x50)
    pages = struct.unpack_from("<4I" if narrow else "<4Q", data, fields["MmOffset"] + 0x18)
    if build > 9600:
        assert not any(pages)
        return
    nonpaged, paged = machine.truth.limits["nonpaged"], machine.truth.limits["paged"]
    assert [page * 0x1000 for page in pages] == [nonpaged[1], nonpaged[0], paged[1], paged[0] or 0]


def test_blocks_without_pages_are_left_out(tmp_path):
    machine = forge("quiet")
    machine.omit(machine.addresses["nt"], 1)
    machine.save(tmp_path / "m.dmp", kind=4)
    data = (tmp_path / "m.dmp").read_bytes()
    assert struct.unpack_from("<I", data, 0x207C) == (26,)
