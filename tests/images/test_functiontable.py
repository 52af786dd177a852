"""The function around a place: by unwind tables, by padding, by what refers to it; and with tables that lie."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dumps.drivers import build
from pykdext.images.functiontable import FunctionBounds, FunctionTable
from pykdext.images.image import read_image
from pykdext.images.imagefile import open_image_file
from pykdext.model import Machine, Module
from tests.helpers.patience import ends_soon
from tests.helpers.peimages import ARM64, CODE, CONSTANTS, EXCEPTION, PAGE, X64, X86, Part, build_memory
from tests.helpers.segments import SegmentsTarget

BASES = {X64: 0x140000000, ARM64: 0x140000000, X86: 0x400000}
MACHINES = {X64: Machine.X64, ARM64: Machine.ARM64, X86: Machine.X86}
TEXT, XDATA, PDATA = PAGE, 0x10000, 0x20000


def open_image(*parts, machine=X64, pdata_bytes=0, missing=()):
    base = BASES[machine]
    directories = {EXCEPTION: (PDATA, pdata_bytes)} if pdata_bytes else {}
    memory = build_memory(*parts, machine=machine, base=base, directories=directories)
    pages = {base + rva: memory[rva : rva + PAGE] for rva in range(0, len(memory), PAGE) if rva not in missing}
    target = SegmentsTarget(pages, machine=MACHINES[machine], modules=(Module("made.sys", base, len(memory)),))
    return read_image(target, target.modules()[0])


def open_table(code, entries=b"", unwind=b"", machine=X64, missing=(), **options):
    image = open_image(
        Part(b".text", TEXT, code, CODE),
        Part(b".xdata", XDATA, unwind.ljust(16, b"\0"), CONSTANTS),
        Part(b".pdata", PDATA, entries.ljust(16, b"\0"), CONSTANTS),
        machine=machine,
        pdata_bytes=len(entries),
        missing=missing,
        **options,
    )
    return FunctionTable(image)


def entry(start, end, unwind=XDATA):
    return struct.pack("<III", start, end, unwind)


PLAIN = struct.pack("<BBBB", 1, 0, 0, 0)


def chained(parent, codes=0):
    return struct.pack("<BBBB", 1 | 4 << 3, 0, codes, 0) + bytes(2 * (codes + codes % 2)) + parent


class TestX64:
    def test_an_entry_is_a_function(self):
        table = open_table(b"\x90" * 0x100, entry(TEXT, TEXT + 0x40) + entry(TEXT + 0x40, TEXT + 0x90), PLAIN)
        for rva in (TEXT, TEXT + 1, TEXT + 0x3F):
            assert table.find(rva) == FunctionBounds(TEXT, ((TEXT, TEXT + 0x40),), "pdata")
        assert table.find(TEXT + 0x40).start_rva == TEXT + 0x40

    def test_chained_entries_belong_to_the_function_they_lead_to(self):
        main = entry(TEXT, TEXT + 0x20)
        second = entry(TEXT + 0x20, TEXT + 0x30, XDATA + 4)
        cold = entry(TEXT + 0x800, TEXT + 0x810, XDATA + 4 + 16 + 4)
        unwind = PLAIN + chained(main, codes=2) + chained(second, codes=3)
        other = entry(TEXT + 0x30, TEXT + 0x40)
        table = open_table(b"\x90" * PAGE, main + second + other + cold, unwind)
        expected = ((TEXT, TEXT + 0x20), (TEXT + 0x20, TEXT + 0x30), (TEXT + 0x800, TEXT + 0x810))
        for start, _ in expected:
            assert table.find(start + 4) == FunctionBounds(TEXT, expected, "pdata")
        assert table.find(TEXT + 0x30).ranges == ((TEXT + 0x30, TEXT + 0x40),)

    def test_an_entry_can_point_at_its_parents_entry(self):
        table = open_table(
            b"\x90" * PAGE, entry(TEXT, TEXT + 0x20) + entry(TEXT + 0x100, TEXT + 0x120, PDATA | 1), PLAIN
        )
        assert table.find(TEXT + 0x110).ranges == ((TEXT, TEXT + 0x20), (TEXT + 0x100, TEXT + 0x120))

    def test_chains_that_loop_or_lead_nowhere_end(self):
        first, second = entry(TEXT, TEXT + 0x10, XDATA), entry(TEXT + 0x10, TEXT + 0x20, XDATA + 16)
        nowhere = entry(TEXT + 0x20, TEXT + 0x30, XDATA + 32)
        table = open_table(
            b"\x90" * 0x100, first + second + nowhere, chained(second) + chained(first) + chained(entry(5, 6))
        )
        for start in (TEXT, TEXT + 0x10, TEXT + 0x20):
            assert table.find(start).ranges == ((start, start + 0x10),)

    def test_entries_out_of_code_or_order_are_not_believed(self):
        entries = [
            entry(TEXT + 0x40, TEXT + 0x60),
            entry(TEXT, TEXT + 0x50),
            entry(0, 0x20),
            entry(XDATA, XDATA + 8),
            entry(TEXT + 0x70, TEXT + 0x70),
            entry(TEXT + 0x90, TEXT + 0x80),
            entry(TEXT + 0x40, TEXT + 0x48),
            entry(0xFFFFFFF0, 0xFFFFFFFF),
            entry(TEXT + 0xF0, TEXT + PAGE),
        ]
        table = open_table(b"\xcc" * 0x100, b"".join(entries), PLAIN)
        assert table.find(TEXT + 0x3F).ranges == ((TEXT, TEXT + 0x40),), "ends where the next begins"
        assert table.find(TEXT + 0x41).start_rva == TEXT + 0x40
        assert table.find(XDATA) is None

    def test_missing_pages_of_the_table_leave_the_rest(self):
        entries = b"".join(entry(TEXT + 8 * index, TEXT + 8 * index + 8) for index in range(1000))
        table = open_table(b"\x90" * 8000, entries, PLAIN, missing=[PDATA + PAGE])
        first_page, third_page = PAGE // 12, -(-2 * PAGE // 12)
        found = [index for index in range(1000) if (table.find(TEXT + 8 * index) or ("",))[-1] == "pdata"]
        assert found == [*range(first_page), *range(third_page, 1000)]

    def test_leaves_lie_between_the_entries(self):
        leaf = b"\x8b\x01\xc3".ljust(16, b"\xcc")
        jump = b"\x48\x31\xc0\xff\x25\0\0\0\0".ljust(16, b"\x90")
        last = b"\x33\xc0\xc3"
        code = b"\x90" * 0x20 + leaf + jump + last
        table = open_table(code, entry(TEXT, TEXT + 0x20), PLAIN)
        for start, end in ((0x20, 0x30), (0x30, 0x40), (0x40, 0x43)):
            assert table.find(TEXT + start + 1) == FunctionBounds(TEXT + start, ((TEXT + start, TEXT + end),), "flow")

    def test_a_leaf_that_is_only_jumped_to_begins_behind_a_return(self):
        """mov eax, [rcx]; ret, and right behind it another that a function with an entry ends in: its last call."""
        leaf, jump = b"\x8b\x01\xc3", b"\xe9" + struct.pack("<i", 0x13 - 0x0D)
        code = b"\x90" * 8 + jump + b"\x90" * 3 + leaf + leaf + b"\xeb\xfb\xc3"
        table = open_table(code, entry(TEXT, TEXT + 0x10), PLAIN)
        assert [table.find(TEXT + offset).start_rva - TEXT for offset in (0x10, 0x12, 0x13, 0x18)] == [16, 16, 19, 19]
        inside = open_table(b"\x90" * 16 + code, entry(TEXT, TEXT + 0x10), PLAIN)  # nothing tells of what jumps
        assert inside.find(TEXT + 0x23).start_rva == inside.find(TEXT + 0x20).start_rva

    @pytest.mark.parametrize(
        ("way", "offset", "begins"),
        [
            ("data", 0x14, True),
            ("lea", 0x14, True),
            ("data", 0x12, False),
            ("unaligned", 0x14, False),
            ("", 0x14, False),
        ],
    )
    def test_a_leaf_that_is_only_pointed_at_begins_behind_a_jump(self, way, offset, begins):
        """A method without filling before it, as for size: a table in data has its address, or code takes it."""
        pointer = struct.pack("<Q", BASES[X64] + TEXT + offset) if way in ("data", "unaligned") else b""
        lea = b"\x48\x8d\x0d" + struct.pack("<i", offset - 7) if way == "lea" else b"\x90" * 7
        code = (
            lea.ljust(0x10, b"\x90") + b"\x8b\xc1\xff\xe0" + b"\x8b\x01\xc3"
        )  # mov eax, ecx; jmp rax; mov eax, [rcx]; ret
        table = open_table(code, entry(TEXT, TEXT + 0x10), PLAIN + bytes(12 if way == "data" else 8) + pointer)
        assert table.find(TEXT + 0x15).start_rva == TEXT + (offset if begins else 0x10)

    def test_jump_targets_that_are_aligned_split_no_function(self):
        body = b"\x85\xc9\x74\x0b\xc3".ljust(15, b"\x90")  # test ecx, ecx; je over the filling; ret
        code = b"\x90" + body + b"\xc3"
        assert table_starts(open_table(b"\xcc" + code[1:])) == [TEXT + 1]

    def test_far_jumps_count_too(self):
        jump = b"\x0f\x84" + struct.pack("<i", 0x200 - 6)
        code = (jump + b"\x8b\xc0" * 0xF8 + b"\xc3").ljust(0x200, b"\x90") + b"\x8b\xc0" * 8
        assert table_starts(open_table(code), 0x210) == [TEXT]
        assert table_starts(open_table(b"\x8b\xc0" * 3 + code[6:]), 0x210) == [TEXT, TEXT + 0x200]

    def test_without_a_table_padding_divides_the_code(self):
        code = b"\xc3".ljust(16, b"\xcc") * 4
        assert table_starts(open_table(code)) == [TEXT, TEXT + 16, TEXT + 32, TEXT + 48]

    @ends_soon
    def test_a_large_table_is_read(self):
        entries = b"".join(
            entry(TEXT + index, TEXT + index + 1, XDATA + index % 0x4000 // 4 * 4) for index in range(0xE000)
        )
        table = open_table(b"\x90" * 0xE000, entries, PLAIN * 0x1000)
        assert table.find(TEXT + 0x800).ranges == ((TEXT + 0x800, TEXT + 0x801),)


def table_starts(table, size=0x100):
    found = (table.find(TEXT + offset) for offset in range(size))
    return sorted({function.start_rva for function in found if function})


def packed(start, instructions, flag=1):
    return struct.pack("<II", start, instructions << 2 | flag)


ARM64_RETURN, ARM64_NOP = struct.pack("<I", 0xD65F03C0), struct.pack("<I", 0xD503201F)


class TestArm64:
    def test_packed_entries_and_xdata_tell_the_length(self):
        entries = packed(TEXT, 8) + struct.pack("<II", TEXT + 0x20, XDATA)
        table = open_table(ARM64_NOP * 64, entries, struct.pack("<I", 1 << 27 | 16), ARM64)
        assert table.find(TEXT + 0x1C) == FunctionBounds(TEXT, ((TEXT, TEXT + 0x20),), "pdata")
        assert table.find(TEXT + 0x5C) == FunctionBounds(TEXT + 0x20, ((TEXT + 0x20, TEXT + 0x60),), "pdata")

    def test_packed_lengths_have_eleven_bits(self):
        table = open_table(ARM64_NOP * 0x800, packed(TEXT, 0x7FF), b"", ARM64)
        assert table.find(TEXT).ranges == ((TEXT, TEXT + 4 * 0x7FF),)

    def test_fragments_continue_the_function_before(self):
        by_code = struct.pack("<I", 1 << 27 | 8) + b"\xe5\xe4\xe3\xe3"
        entries = packed(TEXT, 8) + packed(TEXT + 0x20, 8, flag=2) + struct.pack("<II", TEXT + 0x40, XDATA)
        entries += packed(TEXT + 0x60, 8) + packed(TEXT + 0xA0, 4, flag=2)
        table = open_table(ARM64_NOP * 64, entries, by_code, ARM64)
        whole = ((TEXT, TEXT + 0x20), (TEXT + 0x20, TEXT + 0x40), (TEXT + 0x40, TEXT + 0x60))
        for start, _ in whole:
            assert table.find(start) == FunctionBounds(TEXT, whole, "pdata")
        assert table.find(TEXT + 0x60).start_rva == TEXT + 0x60
        assert table.find(TEXT + 0xA0).start_rva == TEXT + 0xA0, "nothing ends where it begins"

    def test_leaves_end_with_the_return_that_nothing_jumps_over(self):
        skip = struct.pack("<I", 0xB4000040)  # cbz x0, +8
        backwards = struct.pack("<I", 0x17FFFFFF)  # b -4
        code = skip + ARM64_RETURN + ARM64_RETURN + bytes(4) + ARM64_RETURN + ARM64_NOP + backwards + ARM64_NOP * 2
        code += ARM64_RETURN
        table = open_table(ARM64_NOP * 4 + code, packed(TEXT, 4), b"", ARM64)
        leaf = TEXT + 16
        assert table.find(leaf + 4) == FunctionBounds(leaf, ((leaf, leaf + 16),), "flow")
        assert table.find(leaf + 8).start_rva == leaf
        assert table.find(leaf + 16) == FunctionBounds(leaf + 16, ((leaf + 16, leaf + 24),), "flow")
        assert table.find(leaf + 24).start_rva == leaf + 24


class TestX86:
    def test_calls_padding_and_pointers_tell_the_starts(self):
        first = b"\xe8" + struct.pack("<i", 0x30 - 5) + b"\xc3"  # call of what stands at 0x30
        padded = b"\x33\xc0\xc3"
        pushed = b"\x68" + struct.pack("<I", BASES[X86] + TEXT + 0x51) + b"\xc3"  # push offset of what stands at 0x51
        code = bytearray(b"\x8b\xc0" * 0x40)
        for offset, data in ((0, first), (0x0E, b"\xcc\xcc"), (0x10, padded), (0x1E, b"\xcc\xcc"), (0x20, pushed)):
            code[offset : offset + len(data)] = data
        code[0x51:0x54] = b"\x55\x8b\xec"
        code[0x6B:0x6E] = b"\x55\x8b\xec"
        pointers = struct.pack("<III", BASES[X86] + TEXT + 0x6B, BASES[X86] + TEXT + 0x71, 0x12345678)
        image = open_image(
            Part(b".text", TEXT, bytes(code), CODE), Part(b".rdata", XDATA, pointers, CONSTANTS), machine=X86
        )
        starts = [TEXT + offset for offset in (0, 0x10, 0x20, 0x30, 0x51, 0x6B)]
        assert table_starts(FunctionTable(image)) == starts
        assert FunctionTable(image).find(TEXT + 0x60) == FunctionBounds(
            TEXT + 0x51, ((TEXT + 0x51, TEXT + 0x6B),), "flow"
        )

    def test_a_byte_of_an_operand_is_no_padding(self):
        call = b"\xff\x15" + struct.pack("<I", 0x004021CC)  # the pointer's address holds a breakpoint's byte
        code = b"\x8b\xc0" * 6 + b"\x90" + call + b"\xc3"
        assert code.index(b"\xcc") == 0x0F, "what follows is aligned"
        image = open_image(Part(b".text", TEXT, code.ljust(0x40, b"\x40"), CODE), machine=X86)
        assert table_starts(FunctionTable(image)) == [TEXT]

    def test_one_breakpoint_behind_a_return_is_padding(self):
        code = b"\x8b\xc0" * 7 + b"\xc3\xcc" + b"\x33\xc0\xc3"
        image = open_image(Part(b".text", TEXT, code.ljust(0x40, b"\x40"), CODE), machine=X86)
        assert table_starts(FunctionTable(image)) == [TEXT, TEXT + 0x10]

    def test_a_call_of_what_follows_is_no_call(self):
        code = b"\x8b\xc0" * 5 + b"\x90" + b"\xe8\0\0\0\0" + b"\x58\xc3"  # how code asks where it is
        image = open_image(Part(b".text", TEXT, code, CODE), machine=X86)
        assert table_starts(FunctionTable(image)) == [TEXT]

    def test_arms_of_a_switch_are_no_functions(self):
        """cmp eax, 1; jmp [eax*4+table]; filling; xor eax, eax; ret; filling; inc eax; ret: gcc aligns the arms."""
        jump = b"\xff\x24\x85" + struct.pack("<I", BASES[X86] + XDATA)
        load = b"\x8b\x04\x85" + struct.pack("<I", BASES[X86] + XDATA) + b"\xff\xe0"  # mov eax, [...]; jmp eax
        arms = (b"\x31\xc0\xc3", b"\x40\xc3", b"\x33\xc0\xc3")
        for switch in (jump, load):
            code = b"".join(part + b"\xcc" * (-len(part) % 16) for part in (b"\x83\xf8\x01" + switch, *arms))
            table = struct.pack("<II", BASES[X86] + TEXT + 0x10, BASES[X86] + TEXT + 0x20)
            image = open_image(
                Part(b".text", TEXT, code, CODE), Part(b".rdata", XDATA, table + bytes(8), CONSTANTS), machine=X86
            )
            assert table_starts(FunctionTable(image)) == [TEXT, TEXT + 0x30], "behind the last arm is another one"

    @pytest.mark.parametrize(
        ("place", "jump", "begins"),
        [
            (0x32, b"\xeb\xdc", True),
            (0x32, b"\xe9\xd9\xff\xff\xff", True),
            (0x20, b"\xeb\xee", False),
            (0x20, b"\x75\xee", False),
        ],
        ids=["near", "far", "loop", "condition"],
    )
    def test_a_function_to_which_only_another_one_jumps(self, place, jump, begins):
        """A wrapper with arguments in registers is the last call of the only function that uses it."""
        code = bytearray(b"\x40" * 0x50)
        code[:5] = b"\xe8" + struct.pack("<i", 0x30 - 5)
        code[0x0F] = code[0x2F] = 0xC3
        code[place : place + len(jump)] = jump
        image = open_image(Part(b".text", TEXT, bytes(code), CODE), machine=X86)
        wanted = [TEXT, *([TEXT + 0x10] if begins else []), TEXT + 0x30]
        assert table_starts(FunctionTable(image)) == wanted

    def test_a_function_behind_a_call_that_does_not_return(self):
        """call abort, and right behind it push esi; sub esp, 10h: a function that is called itself."""
        code = bytearray(b"\x40" * 0x40)
        code[:5] = b"\xe8" + struct.pack("<i", 0x15 - 5)
        code[0x10:0x15] = b"\xe8" + struct.pack("<i", 0x30 - 0x15)
        code[0x15:0x19] = b"\x56\x83\xec\x10"
        image = open_image(Part(b".text", TEXT, bytes(code), CODE), machine=X86)
        assert table_starts(FunctionTable(image)) == [TEXT, TEXT + 0x15, TEXT + 0x30]

    def test_a_function_that_begins_with_room_for_a_patch(self):
        code = bytearray(b"\x40" * 0x40)
        code[:6] = b"\xe8" + struct.pack("<i", 0x10 - 5) + b"\xc3"
        code[6:0x10] = b"\xcc" * 10
        code[0x10:0x18] = b"\x0f\x1f\x84\0\0\0\0\0"  # nop
        image = open_image(Part(b".text", TEXT, bytes(code), CODE), machine=X86)
        assert table_starts(FunctionTable(image)) == [TEXT, TEXT + 0x10]

    def test_a_part_of_an_address_is_no_jump(self):
        """The address 400A70h has the bytes of a jump over ten bytes to what begins behind a return."""
        code = bytearray(b"\x40" * 0x40)
        code[:6] = b"\xb8" + struct.pack("<I", BASES[X86] + TEXT + 0x20) + b"\xc3"  # mov eax, offset; ret
        code[0x12:0x18] = b"\x8b\x0d" + struct.pack("<I", BASES[X86] + 0xA70)  # mov ecx, [400A70h]
        code[0x1F] = 0xC3
        image = open_image(Part(b".text", TEXT, bytes(code), CODE), machine=X86)
        assert table_starts(FunctionTable(image)) == [TEXT, TEXT + 0x20]

    def test_what_is_not_in_memory_has_no_function(self):
        image = open_image(Part(b".text", TEXT, b"\x8b\xc0" * 0x1800, CODE), machine=X86, missing=[TEXT + PAGE])
        table = FunctionTable(image)
        assert table.find(TEXT + PAGE + 5) is None
        assert table.find(TEXT + 2 * PAGE + 5).ranges[0][1] == TEXT + 3 * PAGE
        assert table.find(0) is None
        assert table.find(1 << 40) is None
        assert table.find(-1) is None


@pytest.mark.parametrize("architecture", ["x64", "x86", "arm64"])
def test_functions_of_the_sample_drivers_cover_their_code(architecture):
    paths = sorted((build.IMAGES / architecture).glob("*.sys"))
    assert paths
    for path in paths:
        with open_image_file(str(path)) as target:
            image = read_image(target, target.modules()[0])
            table = FunctionTable(image)
            assert table.find(image.entry_rva).start_rva == image.entry_rva
            for section in image.sections:
                functions = {table.find(rva) for rva in range(section.rva, section.rva + section.size)} - {None}
                ranges = sorted(span for function in functions for span in function.ranges)
                assert bool(ranges) == section.executable, section.name
                assert all(before[1] <= after[0] for before, after in zip(ranges, ranges[1:]))


@given(
    st.sampled_from([X64, ARM64, X86]),
    st.lists(st.tuples(*[st.one_of(st.integers(0, 2**32 - 1), st.integers(0, 0x2100))] * 3), max_size=12),
    st.binary(max_size=64),
    st.binary(max_size=256),
)
def test_tables_and_code_of_any_bytes_never_fail(machine, entries, unwind, code):
    table = open_table(
        code.ljust(0x100, b"\xcc"), b"".join(struct.pack("<III", *each) for each in entries), unwind, machine
    )
    for rva in range(TEXT, TEXT + 0x100, 5):
        function = table.find(rva)
        if function:
            assert any(start <= rva < end for start, end in function.ranges)
            assert all(TEXT <= start < end <= TEXT + 0x100 for start, end in function.ranges)
            assert all(before[1] <= after[0] for before, after in zip(function.ranges, function.ranges[1:]))
