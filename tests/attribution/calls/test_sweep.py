"""Tags that code makes of other numbers: whoever hands them to an allocator is found without any byte of them."""

from __future__ import annotations

import shutil
import struct

import pytest

from dumps.drivers import build
from dumps.forge import forge
from pykdext.attribution import codeevidence
from pykdext.attribution.calls import sweep
from pykdext.attribution.calls.callees import CalleeResolver
from pykdext.attribution.calls.functions import CodeRoom, FollowedImage
from pykdext.attribution.calls.sweep import AllocatorCallers
from pykdext.attribution.codeevidence import CodeAttributor
from pykdext.attribution.places.index import ImageIndex
from pykdext.cli.main import main
from pykdext.images.image import read_image
from pykdext.images.imagefile import open_image_file
from pykdext.model import Confidence, Machine, Module, PoolTag
from tests.attribution.calls.test_callees import (
    ALLOCATE,
    CODE_RVA,
    KERNEL,
    NARROW_BASES,
    SLOT,
    TO_ALLOCATE,
    VARIABLES_RVA,
    WIDE_BASES,
    System,
    imports_section,
)
from tests.helpers.patience import ends_soon
from tests.helpers.peimages import CODE, CONSTANTS, IMPORT, PAGE, VARIABLES, X86, Part, build_memory
from tests.helpers.segments import SegmentsTarget

pytest.importorskip("capstone")

IMPORT_ADDRESSES = 12
KNOWN, MADE = PoolTag(b"SelW"), PoolTag(b"SelR")
FILLING = b"\xcc" * 16
PUSHED, POPPED = b"\x48\x83\xec\x28", b"\x48\x83\xc4\x28\xc3"  # sub rsp, 28h ... add rsp, 28h; ret


def number(tag):
    return int.from_bytes(tag.raw, "little")


def dword(value):
    return struct.pack("<I", value & 0xFFFFFFFF)


def sample(*path):
    return build.IMAGES.joinpath(*path)


class Code:
    """x64 functions one behind another, from CODE_RVA on."""

    def __init__(self):
        self.bytes = b""

    def add(self, body, callee, opcode=b"\xe8"):
        """A function that calls ``callee`` (an RVA), directly or through the pointer there; its entry."""
        start = CODE_RVA + len(self.bytes)
        code = PUSHED + body + opcode
        end = start + len(code) + 4
        self.bytes += (code + dword(callee - end) + POPPED + FILLING).ljust(64, b"\xcc")
        return start

    def add_thunk(self):
        start = CODE_RVA + len(self.bytes)
        self.bytes += (b"\xff\x25" + dword(SLOT - start - 6)).ljust(64, b"\xcc")
        return start

    def add_wrapper(self, callee=SLOT, opcode=b"\xff\x15"):
        return self.add(b"", callee, opcode)


def select(made=MADE, known=KNOWN):
    """r8d is one of two tags: cmp cl, 1; sbb r8d, r8d; and r8d, difference; add r8d, tag."""
    difference = number(made) - number(known)
    return b"\x80\xf9\x01\x45\x19\xc0\x41\x81\xe0" + dword(difference) + b"\x41\x81\xc0" + dword(number(known))


def call_pointer(code, body):
    return code.add(body, SLOT, b"\xff\x15")


def call_thunk(code, body):
    return code.add(body, code.add_thunk())


def call_rewritten(code, body):
    return code.add(body, KERNEL + ALLOCATE - WIDE_BASES[1])


def call_wrapper(code, body):
    return code.add(body, code.add_wrapper())


def call_two_wrappers(code, body):
    return code.add(body, code.add_wrapper(code.add_wrapper(), b"\xe8"))


def find(system, tag):
    return list(CodeAttributor(ImageIndex(system.images, [tag])).evidence(tag))


WAYS = (call_pointer, call_thunk, call_rewritten, call_wrapper, call_two_wrappers)


@pytest.mark.parametrize("call", WAYS)
def test_a_tag_made_of_another_is_proven_on_each_way_to_the_allocator(call):
    code = Code()
    start = call(code, select())
    system = System(code=code.bytes, constants=TO_ALLOCATE)
    (item,) = find(system, MADE)
    assert (item.module, item.kind, item.confidence) == ("made.sys", "call", Confidence.PROVEN)
    assert start < item.rva < start + 64
    assert "made by arithmetic" in item.detail
    assert "'SelR'" in item.detail
    assert all("made by arithmetic" not in other.detail for other in find(system, KNOWN))


def test_the_import_table_tells_the_pointer_of_a_driver_that_was_not_loaded():
    code = Code()
    call_pointer(code, select())
    directories = {IMPORT: (SLOT & -PAGE, 40), IMPORT_ADDRESSES: (SLOT, 16)}
    system = System(code=code.bytes, constants=imports_section(Machine.X64), directories=directories)
    assert [item.confidence for item in find(system, MADE)] == [Confidence.PROVEN]


def test_numbers_that_make_another_tag_prove_nothing():
    code = Code()
    call_pointer(code, select())
    system = System(code=code.bytes, constants=TO_ALLOCATE)
    assert find(system, PoolTag(b"SelX")) == [], "one character apart, so that the function is followed"
    assert find(system, PoolTag(b"Abcd")) == []


def test_a_tag_with_the_bit_of_protected_pool_is_the_tag():
    code = Code()
    call_pointer(code, select(PoolTag(b"Sel\xd2")))
    system = System(code=code.bytes, constants=TO_ALLOCATE)
    assert [item.confidence for item in find(system, MADE)] == [Confidence.PROVEN]


def test_a_shift_makes_a_tag():
    code = Code()
    shifted = PoolTag(b"FrmD")
    call_pointer(code, b"\x41\xb8" + dword(number(shifted) >> 1) + b"\x41\xd1\xe0")  # mov r8d, half; shl r8d, 1
    system = System(code=code.bytes, constants=TO_ALLOCATE)
    assert [item.confidence for item in find(system, shifted)] == [Confidence.PROVEN]


def test_arm64_adds_a_flag():
    words = (
        0xA9BF7BFD,  # stp x29, x30, [sp, #-16]!
        0x7200001F,  # tst w0, #1
        0x1A9F07E9,  # cset w9, ne
        0x52800008 | 0x7241 << 5,  # mov w8, #0x7241
        0x72A00008 | 0x3069 << 5,  # movk w8, #0x3069, lsl #16
        0x0B096102,  # add w2, w8, w9, lsl #24
        0xB0000009,  # adrp x9, the page behind
        0xF9408129,  # ldr x9, [x9, #0x100]
        0xD63F0120,  # blr x9
        0xA8C17BFD,  # ldp x29, x30, [sp], #16
        0xD65F03C0,  # ret
    )
    system = System(Machine.ARM64, code=struct.pack("<11I", *words), constants=TO_ALLOCATE)
    (item,) = find(system, PoolTag(b"Ari1"))
    assert (item.rva, item.confidence) == (CODE_RVA + 32, Confidence.PROVEN)


def test_what_does_not_fit_is_left_out_and_said(monkeypatch):
    code = Code()
    call_pointer(code, select())
    system = System(code=code.bytes, constants=TO_ALLOCATE)
    monkeypatch.setattr(sweep, "MAX_CALLER_BYTES", 16)
    index = ImageIndex(system.images, [MADE])
    assert list(CodeAttributor(index).evidence(MADE)) == []
    assert any(line.startswith("made.sys: not all of its code was searched") for line in index.warnings)


def test_drivers_of_windows_are_not_swept(tmp_path):
    """The file's name is in the built-in tag table; the version resource of the driver is taken away."""
    for name, found in (("idioms.sys", 1), ("tcpip.sys", 0)):
        shutil.copy(sample("x64", "idioms-O2.sys"), tmp_path / name)
        data = bytearray((tmp_path / name).read_bytes())
        data[data.find("CompanyName".encode("utf-16-le"))] ^= 1
        (tmp_path / name).write_bytes(data)
        with open_image_file(str(tmp_path / name)) as target:
            index = ImageIndex([read_image(target, target.modules()[0])])
            assert len(list(CodeAttributor(index).evidence(PoolTag(b"Ari1")))) == found


def test_a_tag_with_a_likely_place_costs_no_sweep(monkeypatch):
    code = Code()
    call_pointer(code, select())
    system = System(code=code.bytes, constants=TO_ALLOCATE)
    monkeypatch.setattr(codeevidence, "AllocatorCallers", None)
    assert [item.confidence for item in find(system, KNOWN)] == [Confidence.PROVEN]


@ends_soon
def test_calls_without_end_are_bounded():
    """Every byte is the call of an allocator, and all of it one function."""
    memory = build_memory(Part(b".text", CODE_RVA, b"\xe8\xe9\xe8\xe9" * (1 << 18), CODE), base=WIDE_BASES[1])
    kernel = System().images[0]
    module = Module("made.sys", WIDE_BASES[1], len(memory))
    image = read_image(SegmentsTarget({WIDE_BASES[1]: memory}, modules=(module,)), module)
    list(CodeAttributor(ImageIndex([kernel, image], [MADE])).evidence(MADE))


def test_a_driver_of_another_architecture_is_no_reason_to_stop(tmp_path, capsys):
    forge("pipo", drivers=[build.IMAGES / "x86" / "twinone.sys"]).save(tmp_path / "MEMORY.DMP")
    assert main(["find", "Zzzz", str(tmp_path / "MEMORY.DMP")]) == 0
    assert "Owner: unknown" in capsys.readouterr().out


@pytest.mark.parametrize(("load", "is_tag"), [("448b05", True), ("440fb605", False), ("440fb705", False)])
def test_only_a_read_of_all_four_bytes_is_the_tag(load, is_tag):
    """``mov``, ``movzx byte`` or ``movzx word`` of r8d from a variable that holds the tag's bytes."""
    code = bytes.fromhex("4883ec28" + load)
    code += struct.pack("<i", VARIABLES_RVA - CODE_RVA - len(code) - 4)
    code += bytes.fromhex("ba40000000b901000000ff15")
    code += struct.pack("<i", SLOT - CODE_RVA - len(code) - 4) + bytes.fromhex("4883c428c3")
    system = System(code=code, constants=TO_ALLOCATE, variables=KNOWN.raw)
    proven = [item for item in find(system, KNOWN) if item.confidence is Confidence.PROVEN]
    assert bool(proven) == is_tag


def test_a_pointer_that_a_driver_writes_is_no_dispatcher():
    """``ops.alloc = ExAllocatePoolWithTag; ops.log(1, 2, 'SelW');`` leaves the allocator in rax."""
    code = bytes.fromhex("4883ec28488b05") + struct.pack("<i", SLOT - CODE_RVA - 11)
    code += bytes.fromhex("488905") + struct.pack("<i", VARIABLES_RVA - CODE_RVA - len(code) - 7)
    code += b"\x41\xb8" + KNOWN.raw
    code += bytes.fromhex("ff15") + struct.pack("<i", VARIABLES_RVA + 8 - CODE_RVA - len(code) - 6)
    system = System(code=code + bytes.fromhex("4883c428c3"), constants=TO_ALLOCATE)
    assert [item for item in find(system, KNOWN) if item.confidence is Confidence.PROVEN] == []


@ends_soon
def test_a_function_of_thousands_of_fragments_is_bounded():
    """Chained unwind entries, one for each byte of padding."""
    count, unwind = 8000, 4 * PAGE
    code = bytes.fromhex("41b8") + KNOWN.raw + bytes.fromhex("ff1500000000c3ccccc3") + b"\xcc" * count
    entries = struct.pack("<III", CODE_RVA, CODE_RVA + 16, unwind) + b"".join(
        struct.pack("<III", CODE_RVA + 16 + index, CODE_RVA + 17 + index, unwind + 16 | 1) for index in range(count)
    )
    memory = build_memory(
        Part(b".text", CODE_RVA, code, CODE),
        Part(b".rdata", unwind, bytes([1]).ljust(16, b"\0") + entries, CONSTANTS),
        base=WIDE_BASES[1],
        directories={3: (unwind + 16, len(entries))},
    )
    module = Module("made.sys", WIDE_BASES[1], len(memory))
    image = read_image(SegmentsTarget({WIDE_BASES[1]: memory}, modules=(module,)), module)
    assert list(CodeAttributor(ImageIndex([image], [KNOWN])).evidence(KNOWN))


@ends_soon
def test_pointers_to_an_allocator_without_end_are_bounded():
    code_bytes, base = 4 << 20, NARROW_BASES[1]
    kernel = System(Machine.X86).images[0]
    pointers = struct.pack("<I", kernel.module.base + ALLOCATE) * (256 << 8)
    memory = build_memory(
        Part(b".text", CODE_RVA, b"\xc3" * code_bytes, CODE),
        Part(b".data", CODE_RVA + code_bytes, pointers, VARIABLES),
        machine=X86,
        base=base,
    )
    module = Module("made.sys", base, len(memory))
    image = read_image(SegmentsTarget({base: memory}, machine=Machine.X86, modules=(module,)), module)
    callers = AllocatorCallers(FollowedImage(image, CodeRoom()), CalleeResolver([kernel, image]))
    assert callers.is_cut and callers.find_makers(MADE) == ()
