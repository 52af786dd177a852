"""Bitmaps with wrong bits: what is read of such a dump is what the machine had, however little it may be."""

from __future__ import annotations

import random
import struct

import pytest

from dumps.forge import forge
from pykdext.errors import DumpFormatError, MemoryReadError
from pykdext.kernel.kernel import open_kernel
from pykdext.kernel.pool.tagtables import read_pool_snapshot
from pykdext.targets.dump.crashdump import open_crashdump

MACHINES = {"x64": 19041, "x86": 7601, "x86pae": 7601, "arm64": 22000}


class Dump:
    """A forged dump in memory, and where its bitmap is."""

    def __init__(self, folder, arch, kind):
        machine = forge("pipo", arch=arch, build=MACHINES[arch])
        path = folder / "whole.dmp"
        machine.save(path, kind=kind)
        self.whole = path.read_bytes()
        start = 0x1000 if arch.startswith("x86") else 0x2000
        self.bitmap = start + ((0x20 if start == 0x1000 else 0x28) if kind == 2 else 0x38)
        form, at = ("<I", 0x10) if kind == 2 else ("<Q", 0x30)
        (self.bits,) = struct.unpack_from(form, self.whole, start + at)
        self.pages = {number: bytes(machine.memory.pages[number]) for number in machine.memory.present_frames()}
        self.machine = machine
        self.root = machine.space.root_address >> 12
        self.path = folder / "damaged.dmp"

    def open_with_wrong_bits(self, *numbers):
        data = bytearray(self.whole)
        for number in numbers:
            data[self.bitmap + number // 8] ^= 1 << number % 8
        self.path.write_bytes(data)
        return open_crashdump(str(self.path))

    def count_right(self, dump):
        """How many pages are read; each of them is the machine's."""
        right = 0
        for number, page in self.pages.items():
            try:
                data = dump._container.read_physical(number << 12, 4096)
            except MemoryReadError:
                continue
            assert data == page, f"page 0x{number:x} is another"
            right += 1
        return right


@pytest.mark.parametrize(("arch", "kind"), [("x64", 6), ("x64", 2), ("x86", 5), ("x86pae", 6), ("arm64", 6)])
def test_one_wrong_bit_leaves_out_what_is_not_certain_and_never_gives_another_page(tmp_path, arch, kind):
    dump = Dump(tmp_path, arch, kind)
    chance = random.Random(arch)
    marked = sorted(dump.pages)
    shares = []
    for number in (*chance.sample(marked, 6), *chance.sample(range(dump.bits), 4)):
        with dump.open_with_wrong_bits(number) as opened:
            right = dump.count_right(opened)
            facts = opened.facts
        assert facts.pages_present == right
        assert facts.pages_expected == len(marked)
        assert "the bitmap of pages " in facts.warnings[0]
        shares.append(right / len(marked))
    assert sorted(shares)[len(shares) // 2] > 0.8


@pytest.mark.parametrize("arch", MACHINES)
def test_the_lost_bit_of_a_page_that_others_lead_to_is_put_right(tmp_path, arch):
    dump = Dump(tmp_path, arch, 6)
    with dump.open_with_wrong_bits(dump.root) as opened:
        assert dump.count_right(opened) == len(dump.pages) == opened.facts.pages_present
        assert f"prove that page 0x{dump.root:x} is the one that it lost" in opened.facts.warnings[0]


@pytest.mark.parametrize("places", [(0, 1), (0, 4), range(12)])
def test_several_lost_bits_near_each_other_are_as_one(tmp_path, places):
    dump = Dump(tmp_path, "x64", 6)
    marked = sorted(dump.pages)
    with dump.open_with_wrong_bits(*(marked[150 + place] for place in places)) as opened:
        assert dump.count_right(opened) > len(dump.pages) / 2


def test_ranges_over_what_is_left_out_are_read_in_parts(tmp_path):
    dump = Dump(tmp_path, "x64", 6)
    with dump.open_with_wrong_bits(sorted(dump.pages)[150]) as opened:
        first, last = min(dump.pages), max(dump.pages)
        parts = list(opened._container.read_present_physical(first << 12, (last + 1 - first) << 12))
        assert sum(len(data) for _, data in parts) == opened.facts.pages_present << 12
        for address, data in parts:
            for at in range(0, len(data), 4096):
                assert data[at : at + 4096] == dump.pages[(address + at) >> 12]


@pytest.mark.parametrize("arch", ["x64", "arm64"])
def test_tag_tables_at_the_wrong_bit_are_read_as_far_as_their_rows_prove_their_pages(tmp_path, arch):
    dump = Dump(tmp_path, arch, 6)
    with open_crashdump(str(tmp_path / "whole.dmp")) as opened:
        whole = read_pool_snapshot(open_kernel(opened))
    pages = [dump.machine.space.translate(dump.machine.addresses["table:1"] + 4096 * number) >> 12 for number in (0, 7)]
    for lost in pages:
        with dump.open_with_wrong_bits(lost) as opened:
            found = read_pool_snapshot(open_kernel(opened))
            assert dump.count_right(opened) == opened.facts.pages_present > len(dump.pages) - 8
        assert {row.tag for row in found.tags} <= {row.tag for row in whole.tags}
        changed = set(whole.tags) - set(found.tags)
        assert len(changed) < 20
        assert not changed or (found.coverage.rows_read < found.coverage.rows_expected)


def test_a_bitmap_that_nothing_proves_is_refused(tmp_path):
    dump = Dump(tmp_path, "x64", 6)
    chance = random.Random(1)
    with pytest.raises(DumpFormatError, match=r"a bitmap that marks .* as the header counts"):
        dump.open_with_wrong_bits(*(number for number in range(0, dump.bits, 3) if chance.random() < 0.7))


def test_a_cut_file_with_a_wrong_bit_ends_where_it_ends(tmp_path):
    dump = Dump(tmp_path, "x64", 6)
    dump.whole = dump.whole[: -40 * 4096]
    with dump.open_with_wrong_bits(sorted(dump.pages)[290]) as opened:
        assert dump.count_right(opened) == opened.facts.pages_present
        assert any("truncated" in warning for warning in opened.facts.warnings)
