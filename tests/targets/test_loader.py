"""Loader entries and unloaded drivers of each width, written by hand with literal offsets."""

from __future__ import annotations

import struct

import pytest

from pykdext.targets.kernelformat import KERNEL32, KERNEL64
from pykdext.targets.loader import is_list_head, read_kernel_image, read_loaded_modules, read_unloaded_modules
from tests.helpers.pagetables import KINDS, PAGE, Tables

# One row a width: kernel, pointer code, names' places, base, size, path, name, checksum, stamp, entry's bytes.
WIDTHS = {
    "x86": (KERNEL32, "I", 0x18, 0x20, 0x24, 0x2C, 0x40, 0x58, 0x5C),
    "pae": (KERNEL32, "I", 0x18, 0x20, 0x24, 0x2C, 0x40, 0x58, 0x5C),
    "x64": (KERNEL64, "Q", 0x30, 0x40, 0x48, 0x58, 0x78, 0x9C, 0xA0),
    "arm64": (KERNEL64, "Q", 0x30, 0x40, 0x48, 0x58, 0x78, 0x9C, 0xA0),
}


class KernelLists:
    """Memory of a kernel: one page of lists, one page of names, images of one page each."""

    def __init__(self, name):
        self.tables = Tables(KINDS[name])
        (self.kernel, self.code, self.base_at, self.size_at, self.path_at, self.name_at) = WIDTHS[name][:6]
        (self.checksum_at, self.stamp_at, self.entry_bytes) = WIDTHS[name][6:]
        self.start = self.tables.kind.kernel
        self.pointer_bytes = struct.calcsize(self.code)
        for number in range(16):
            self.tables.memory.fill(0x5000 + number, seed=0)
            self.tables.map_page(self.start + number * PAGE, 0x5000 + number)
        self.next_name = self.start + PAGE
        self.entries = []

    @property
    def memory(self):
        return self.tables.virtual

    def write(self, address, data):
        physical = self.tables.space.translate(address)
        self.tables.memory.pages[physical // PAGE][physical % PAGE : physical % PAGE + len(data)] = data

    def pointer(self, value):
        return struct.pack("<" + self.code, value)

    def string(self, text):
        data = text.encode("utf-16-le")
        address, self.next_name = self.next_name, self.next_name + len(data) + 2
        self.write(address, data)
        lengths = struct.pack("<HH", len(data), len(data) + 2)
        return lengths.ljust(self.pointer_bytes, b"\0") + self.pointer(address)

    def add_entry(self, base, size, path, name, checksum, stamp, at=None):
        entry = bytearray(self.entry_bytes)
        for offset, data in (
            (self.base_at, self.pointer(base)),
            (self.size_at, struct.pack("<I", size)),
            (self.path_at, self.string(path)),
            (self.name_at, self.string(name)),
            (self.checksum_at, struct.pack("<I", checksum)),
            (self.stamp_at, struct.pack("<I", stamp)),
        ):
            entry[offset : offset + len(data)] = data
        address = at or self.start + 0x100 * (1 + len(self.entries))
        room = PAGE - address % PAGE
        self.write(address, bytes(entry[:room]))
        self.entries.append(address)

    def link(self):
        ring = [self.start, *self.entries]
        for number, address in enumerate(ring):
            self.write(address, self.pointer(ring[(number + 1) % len(ring)]) + self.pointer(ring[number - 1]))

    def add_image(self, base, stamp, size, checksum):
        header = bytearray(0x80)
        struct.pack_into("<2s58xI", header, 0, b"MZ", 0x80)
        self.write(base, bytes(header))
        image = bytearray(0x60)
        struct.pack_into("<4s4xI", image, 0, b"PE\0\0", stamp)
        struct.pack_into("<I4xI", image, 0x50, size, checksum)
        self.write(base + 0x80, bytes(image))


@pytest.fixture(params=list(WIDTHS))
def lists(request):
    return KernelLists(request.param)


@pytest.mark.parametrize(("build", "stamp"), [(22000, 0x11223344), (10240, 0x11223344), (9600, None), (None, None)])
def test_loaded_modules(lists, build, stamp):
    first, second = lists.start + 8 * PAGE, lists.start + 9 * PAGE
    lists.add_entry(first, 0x5000, "\\SystemRoot\\system32\\ntoskrnl.exe", "ntoskrnl.exe", 0xABCD, 0x11223344)
    lists.add_entry(second, 0x7000, "\\SystemRoot\\System32\\drivers\\pippo.sys", "pippo.sys", 0x1234, 0x11223344)
    lists.link()
    found, warnings = read_loaded_modules(lists.memory, lists.kernel, lists.start, build)
    assert warnings == ()
    assert [(m.name, m.base, m.size, m.path, m.timestamp, m.checksum) for m in found] == [
        ("ntoskrnl.exe", first, 0x5000, "\\SystemRoot\\system32\\ntoskrnl.exe", stamp, 0xABCD),
        ("pippo.sys", second, 0x7000, "\\SystemRoot\\System32\\drivers\\pippo.sys", stamp, 0x1234),
    ]


def test_an_image_s_own_header_goes_before_the_entry(lists):
    base = lists.start + 8 * PAGE
    lists.add_image(base, stamp=0x55667788, size=0x9000, checksum=0x4321)
    lists.add_entry(base, 0x5000, "\\pippo.sys", "pippo.sys", 0xABCD, 0x11223344)
    lists.link()
    for build in (7601, 19041):
        module = read_loaded_modules(lists.memory, lists.kernel, lists.start, build).modules[0]
        assert (module.timestamp, module.checksum, module.size) == (0x55667788, 0x4321, 0x5000)
    kernel = read_kernel_image(lists.memory, base)
    assert (kernel.base, kernel.size, kernel.timestamp) == (base, 0x9000, 0x55667788)
    assert read_kernel_image(lists.memory, base + PAGE) is None


def test_an_older_entry_may_end_with_its_page(lists):
    """Before Windows 10 an entry was shorter: what follows it may not be there."""
    base = lists.start + 8 * PAGE
    last = lists.start + 16 * PAGE - (lists.checksum_at + 4)
    lists.add_entry(base, 0x5000, "\\pippo.sys", "pippo.sys", 0xABCD, 0, at=last)
    lists.link()
    found, warnings = read_loaded_modules(lists.memory, lists.kernel, lists.start, 7601)
    assert [(m.name, m.checksum) for m in found] == [("pippo.sys", 0xABCD)]
    assert warnings == ()
    found, warnings = read_loaded_modules(lists.memory, lists.kernel, lists.start, 10240)
    assert found == ()
    assert warnings == ("entries of the list of loaded modules that are not whole in the dump: 1",)


def test_bases_in_user_space_are_damage(lists):
    lists.add_entry(0x10000, 0x5000, "\\a.sys", "a.sys", 0, 0)
    lists.add_entry(lists.kernel.kernel_start - PAGE, 0x5000, "\\b.sys", "b.sys", 0, 0)
    lists.add_entry(lists.kernel.kernel_start, 0x5000, "\\c.sys", "c.sys", 0, 0)
    lists.link()
    found, warnings = read_loaded_modules(lists.memory, lists.kernel, lists.start, 7601)
    assert [m.name for m in found] == ["c.sys"]
    assert warnings == ("damaged entries in the list of loaded modules: 2",)


def test_the_head_of_a_list(lists):
    lists.add_entry(lists.start + 8 * PAGE, 0x5000, "\\a.sys", "a.sys", 0, 0)
    lists.link()
    assert is_list_head(lists.memory, lists.kernel, lists.start)
    assert not is_list_head(lists.memory, lists.kernel, lists.start + 0x40)
    assert not is_list_head(lists.memory, lists.kernel, lists.start - PAGE)


def test_unloaded_drivers(lists):
    array, variable = lists.start + 4 * PAGE, lists.start + 3 * PAGE
    lists.write(variable, lists.pointer(array))
    drivers = [("older.sys", 0x100, 5), ("newest.sys", 0x200, 9), ("middle.sys", 0x300, 7)]
    data = b""
    for name, number, moment in drivers:
        start = lists.kernel.kernel_start + number * PAGE
        slot = lists.string(name) + lists.pointer(start) + lists.pointer(start + 0x3000)
        data += slot + struct.pack("<Q", moment)
    assert len(data) == 3 * (0x18 if lists.pointer_bytes == 4 else 0x28)
    lists.write(array, data)
    found, warnings = read_unloaded_modules(lists.memory, lists.kernel, variable)
    assert warnings == ()
    assert [(m.name, m.base, m.size, m.unloaded) for m in found] == [
        ("newest.sys", lists.kernel.kernel_start + 0x200 * PAGE, 0x3000, True),
        ("middle.sys", lists.kernel.kernel_start + 0x300 * PAGE, 0x3000, True),
        ("older.sys", lists.kernel.kernel_start + 0x100 * PAGE, 0x3000, True),
    ]


def test_no_unloaded_drivers(lists):
    variable = lists.start + 3 * PAGE
    assert read_unloaded_modules(lists.memory, lists.kernel, variable) == ((), ())
    lists.write(variable, lists.pointer(lists.start + 20 * PAGE))
    assert read_unloaded_modules(lists.memory, lists.kernel, variable).warnings == (
        "the list of unloaded drivers is not in the dump",
    )
