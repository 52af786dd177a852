"""Driver Verifier's log: only the newest entry of a block that is still there counts; damage is bounded and said."""

from __future__ import annotations

import struct
from types import SimpleNamespace

import pytest

from dumps.forge import forge
from pykdext.kernel.objects.pages import PageReader
from pykdext.kernel.objects.pooltraces import PoolTrace, PoolTraceLog, read_pool_traces
from pykdext.model import Machine, Module, PoolTag
from tests.helpers.objectmachines import open_space
from tests.helpers.segments import SegmentsTarget

TAG = PoolTag.from_text("VfLk")
RING, INDEX, LENGTH = 0xD585A8, 0xD5860C, 0xD58518  # nt of 22000
ENTRY_BYTES = 0x1A8


def make():
    return forge("verifier", build=22000, leaked=2_000, healthy_share=64)


def variable(machine, rva, size=4):
    return int.from_bytes(machine.read_virtual(machine.addresses["nt"] + rva, size), "little")


def set_variable(machine, rva, value, code="I"):
    machine.write_virtual(machine.addresses["nt"] + rva, struct.pack(f"<{code}", value))


def append(machine, va, size, *stack):
    """Add an entry as the kernel does."""
    newest = variable(machine, INDEX) + 1
    place = machine.addresses["verifier-log"] + newest % variable(machine, LENGTH) * ENTRY_BYTES
    machine.write_virtual(place, struct.pack(f"<3Q{len(stack)}Q", va, size, 0, *stack).ljust(ENTRY_BYTES, b"\0"))
    set_variable(machine, INDEX, newest)


def callers(machine, folder, tag=TAG):
    with open_space(machine, folder) as space:
        log = space.pool_traces
        found = () if log is None else log.find_callers([tag])
        return {(item.module, item.rva): item.blocks for item in found}, () if log is None else log.warnings


def blocks_of(machine):
    return [(block.va + 0x10, block.size - 0x10) for block in machine.truth.blocks[b"VfLk"]]


def code(machine, name="afd.sys"):
    return machine.addresses[f"module:{name}"] + 0x1000


def test_the_newest_entry_of_a_block_counts(tmp_path):
    machine = make()
    before, _ = callers(machine, tmp_path)
    va, size = blocks_of(machine)[0]
    append(machine, va, size - 4, code(machine))
    after, warnings = callers(machine, tmp_path)
    assert sum(after.values()) == sum(before.values()) == 48
    assert after["afd.sys", 0x1000] == 1
    assert warnings == ()


@pytest.mark.parametrize(
    ("header", "value"),
    [(3, b"\0"), (2, b"\x03"), (4, b"Othr")],
    ids=["no longer in use", "of another size", "of another tag"],
)
def test_a_block_that_is_no_longer_the_one_that_was_logged(tmp_path, header, value):
    machine = make()
    va, _ = blocks_of(machine)[0]
    machine.write_virtual(va - 0x10 + header, value)
    assert sum(callers(machine, tmp_path)[0].values()) == 47


def test_nt_and_driver_verifier_are_not_the_callers(tmp_path):
    machine = make()
    va, size = blocks_of(machine)[1]
    append(machine, va, size, machine.addresses["nt"] + 0x5000, 0xFFFF800012345678)
    assert sum(callers(machine, tmp_path)[0].values()) == 47


@pytest.mark.parametrize("at_end", [True, False], ids=["at the page's end", "at the page's start"])
def test_special_pool_keeps_its_header_on_the_page(tmp_path, at_end):
    machine = make()
    page = machine.truth.blocks[b"VfGl"][0].va & -0x1000  # what lies on it is overwritten
    size = 0x250
    address = page + 0x1000 - size if at_end else page
    machine.write_virtual(page, bytes(0x1000))
    header_at = page if at_end else page + 0xFF0
    machine.write_virtual(header_at, struct.pack("<I4s", size, b"Spec"))
    append(machine, address, size, code(machine))
    assert callers(machine, tmp_path, PoolTag.from_text("Spec"))[0] == {("afd.sys", 0x1000): 1}


def test_damage_is_bounded_and_said(tmp_path):
    machine = make()
    set_variable(machine, LENGTH, 0xFFFFFFFF)
    found, warnings = callers(machine, tmp_path)
    assert found == {}
    assert warnings == ("Driver Verifier's log: found a length of 4,294,967,295, expected at most 131,072: not read",)
    machine = make()
    set_variable(machine, RING, 0xFFFFF00000000000, "Q")
    found, warnings = callers(machine, tmp_path)
    assert (found, warnings) == ({}, ("Driver Verifier's log: 0 of 256 entries read",))
    set_variable(machine, RING, 0, "Q")
    assert callers(machine, tmp_path) == ({}, ())


def test_without_the_place_of_the_newest_entry_no_call_is_the_last(tmp_path):
    machine = make()
    with open_space(machine, tmp_path) as space:
        log = read_pool_traces(space.kernel, Without(space.pages, machine.addresses["nt"] + INDEX))
    told = "Driver Verifier's log: found variables that are not in memory: not read"
    assert (log.traces, log.warnings) == ((), (told,))


class Without:
    """Pages as they are, but for one variable."""

    def __init__(self, pages, address):
        self._pages, self._address = pages, address

    def number(self, address, size):
        return None if address == self._address else self._pages.number(address, size)

    def __getattr__(self, name):
        return getattr(self._pages, name)


@pytest.mark.parametrize(("pool_type", "blocks"), [(1, 1), (0, 0)], ids=["in use", "free"])
def test_a_free_block_of_32_bits_is_none(pool_type, blocks):
    """9 bits of size, 7 of the pool's type, and the tag behind them: a free block keeps its tag."""
    page, units = 0x85000000, 5
    memory = {page: struct.pack("<HH4s", 0, units | pool_type << 9, b"VfLk").ljust(0x1000, b"\0")}
    modules = (Module("ntoskrnl.exe", 0x82000000, 0x1000), Module("afd.sys", 0x83000000, 0x2000))
    target = SegmentsTarget(memory, machine=Machine.X86, modules=modules)
    trace = PoolTrace(page + 8, 8 * (units - 1), struct.pack("<2I", 0x83001000, 0))
    log = PoolTraceLog(SimpleNamespace(target=target), PageReader(target), [trace], ())
    assert sum(caller.blocks for caller in log.find_callers([TAG])) == blocks
