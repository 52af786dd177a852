"""Rare instructions of the three processors: nothing that they change counts as kept. Codes are GNU as's and LLVM's."""

from __future__ import annotations

import struct

import pytest

from pykdext.attribution.flow.values import UNKNOWN, Location, numbers
from pykdext.model import Machine
from tests.attribution.flow import test_flow_arm64 as arm64
from tests.attribution.flow.test_flow_intel import PIPO, follow

CALL = "e800100000"
FRAME_X64, FRAME_X86 = "4881ec48040000", "81ec48040000"
TAG = struct.pack("<I", PIPO).hex()
LEAD = {"rax": "488d442420", "rdi": "488d7c2420", "rsi": "488d742420", "rbp": "488d6c2420"}  # lea of [rsp+0x20]


def store_at(offset):
    """``mov dword [rsp+offset], 'Pipo'``."""
    return "c78424" + struct.pack("<I", offset).hex() + TAG


def at_call(code, location, machine=Machine.X64):
    flow = follow(bytes.fromhex(code), machine)
    assert flow.lost is None
    return flow.calls[-1].frame.argument(location, 4)


@pytest.mark.parametrize(
    ("pointer", "instruction", "offset"),
    [
        ("", "0fae442420", 0x20 + 0xA0),  # fxsave [rsp+0x20]: xmm0
        ("", "480fae442420", 0x20 + 0x100),  # fxsave64
        ("", "0fae642420", 0x20 + 0x240),  # xsave: ymm0
        ("", "480fc7642420", 0x20 + 0x240),  # xsavec64
        ("", "0fae742420", 0x20 + 0xA0),  # xsaveopt
        ("", "0fc76c2420", 0x20 + 0xA0),  # xsaves
        ("", "dd742420", 0x20 + 0x20),  # fnsave
        ("", "d9742420", 0x20 + 0x18),  # fnstenv
        ("", "0f01442422", 0x28),  # sgdt [rsp+0x22]
        ("", "0fc3442420", 0x20),  # movnti [rsp+0x20], eax
        ("", "0f38f9442420", 0x20),  # movdiri
        ("rax", "660f38f802", 0x20 + 0x3C),  # movdir64b rax, [rdx]
        ("rax", "0f01fc", 0x20),  # clzero
        ("rdi", "660ff7c1", 0x2C),  # maskmovdqu xmm0, xmm1
        ("rdi", "6c", 0x20),  # insb
        ("rdi", "f36d", 0x20 + 0x80),  # rep insd
        ("rdi", "0fa7c0", 0x20),  # xstore
        ("rdi", "f30fa7c8", 0x20 + 0x80),  # rep xcryptecb
        ("rax", "62f27d09a00488", 0x20),  # vpscatterdd [rax+xmm1*4]{k1}, xmm0
        ("rax", "62f27d09a04c8820", 0x20),  # the same with a displacement: an index may be negative
        ("", "c4e2718e442420", 0x2C),  # vpmaskmovd [rsp+0x20], xmm1, xmm0
        ("", "62f27d488b442401", 0x3C),  # vpcompressd [rsp+4], zmm0
        ("", "480fc74c2420", 0x28),  # cmpxchg16b [rsp+0x20]
        ("", "0fb14c2420", 0x20),  # cmpxchg [rsp+0x20], ecx
        ("", "f00fc14c2420", 0x20),  # lock xadd [rsp+0x20], ecx
        ("", "0f38f6442420", 0x20),  # wrssd
        ("", "0f78442420", 0x20),  # vmread [rsp+0x20], rax
        ("", "660f3a1744242001", 0x20),  # extractps [rsp+0x20], xmm0, 1
        ("", "c4e3791d44242000", 0x24),  # vcvtps2ph [rsp+0x20], xmm0, 0
        ("", "0f01e6 0f01642420", 0x20),  # lmsw; smsw [rsp+0x20]
    ],
)
def test_memory_that_an_instruction_changes(pointer, instruction, offset):
    code = FRAME_X64 + store_at(offset) + LEAD.get(pointer, "") + instruction
    assert numbers(at_call(code + CALL, Location("", offset))) != {PIPO}
    assert numbers(at_call(FRAME_X64 + store_at(offset) + CALL, Location("", offset))) == {PIPO}


MOVES = {"rax": "b8", "rcx": "b9", "rdx": "ba", "rbx": "bb", "rsi": "be", "rdi": "bf"}


@pytest.mark.parametrize(
    ("instruction", "registers"),
    [
        ("0fa2", "rax rbx rcx rdx"),  # cpuid
        ("0f31", "rax rdx"),  # rdtsc
        ("0f01f9", "rax rcx rdx"),  # rdtscp
        ("0f32", "rax rdx"),  # rdmsr
        ("0f01d0", "rax rdx"),  # xgetbv
        ("ac", "rax rsi"),  # lodsb
        ("f3ac", "rax rsi rcx"),  # rep lodsb
        ("f2ae", "rdi rcx"),  # repne scasb
        ("f3a6", "rsi rdi rcx"),  # repe cmpsb
        ("f36e", "rsi rcx"),  # rep outsb
        ("d7", "rax"),  # xlatb
        ("e200", "rcx"),  # loop to the next instruction
        ("e100", "rcx"),  # loope
        ("9f", "rax"),  # lahf
        ("f3480f1ec8", "rax"),  # rdsspq rax
        ("f30fc7f9", "rcx"),  # rdpid rcx
        ("0fc7f2", "rdx"),  # rdrand edx
        ("0fc1c8", "rax rcx"),  # xadd eax, ecx
        ("c4e263f6c1", "rax rbx"),  # mulx eax, ebx, ecx
        ("660fd7c1", "rax"),  # pmovmskb eax, xmm1
        ("660f3a16c101", "rcx"),  # pextrd ecx, xmm0, 1
        ("0f00c1", "rcx"),  # sldt ecx
        ("0f01e1", "rcx"),  # smsw ecx
        ("0f20c0", "rax"),  # mov rax, cr0
        ("f20f38f1c1", "rax"),  # crc32 eax, ecx
        ("ed", "rax"),  # in eax, dx
    ],
)
def test_registers_that_an_instruction_changes(instruction, registers):
    moves = "".join(move + TAG for move in MOVES.values())
    for name in MOVES:
        found = numbers(at_call(moves + instruction + CALL, Location(name)))
        assert (found == {PIPO}) == (name not in registers.split()), name


@pytest.mark.parametrize("instruction", ["0fae0a", "0fae2a", "480fc71a", "c5fc77"])
def test_vector_registers_that_are_restored(instruction):
    """fxrstor, xrstor, xrstors64, vzeroall: behind them movd gives no longer what was in xmm0."""
    code = "b8" + TAG + "660f6ec0" + instruction + "660f7ec1"
    assert numbers(at_call(code + CALL, Location("rcx"))) != {PIPO}


@pytest.mark.parametrize("machine", [Machine.X64, Machine.X86])
@pytest.mark.parametrize("push", ["0fa0", "0fa8"])
def test_a_segment_register_takes_as_much_of_the_stack_as_a_pointer(machine, push):
    """push fs, gs: the tag that was pushed before stands one pointer above it, and above nothing after the pop."""
    slot = machine.pointer_size
    code = "68" + TAG + push
    assert numbers(at_call(code + CALL, Location("", slot), machine)) == {PIPO}
    pop = "0f" + format(int(push, 16) & 0xFF | 1, "02x")
    assert numbers(at_call(code + pop + CALL, Location("", 0), machine)) == {PIPO}


def test_frames_that_one_instruction_builds():
    """enter 0x20, 0 and pushad: what lies above stays where it is."""
    code = "68" + TAG
    assert numbers(at_call(code + "c8200000" + CALL, Location("", 0x24), Machine.X86)) == {PIPO}
    assert numbers(at_call(code + "c8200000c9" + CALL, Location("", 0), Machine.X86)) == {PIPO}
    assert numbers(at_call(code + "60" + CALL, Location("", 0x20), Machine.X86)) == {PIPO}
    assert numbers(at_call("be" + TAG + code + "6061" + CALL, Location("", 0), Machine.X86)) == {PIPO}
    assert at_call("be" + TAG + "6061" + CALL, Location("esi"), Machine.X86) >= UNKNOWN


def word(number):
    return number.to_bytes(4, "little").hex()


@pytest.mark.parametrize(
    ("instruction", "offset"),
    [
        (0xF83F9120, 0x3C),  # st64b x0, [x9]
        (0xF820B122, 0x20),  # st64bv x0, x2, [x9]
        (0xF8208121, 0),  # swp x0, x1, [x9]
        (0xC8A07D21, 0),  # cas x0, x1, [x9]
        (0x48207D22, 8),  # casp x0, x1, x2, x3, [x9]
        (0xF8200121, 4),  # ldadd x0, x1, [x9]
        (0xF820013F, 4),  # stadd x0, [x9]
        (0xC8007D21, 4),  # stxr w0, x1, [x9]
        (0xC8200921, 8),  # stxp w0, x1, x2, [x9]
        (0xF8000921, 4),  # sttr x1, [x9]
        (0xD9000121, 4),  # stlur x1, [x9]
        (0x4C002920, 0x3C),  # st1 {v0.4s - v3.4s}, [x9]
        (0x4C000920, 0x3C),  # st4 {v0.4s - v3.4s}, [x9]
        (0x0D008120, 0),  # st1 {v0.s}[0], [x9]
        (0xD9E00920, 0x1C),  # stz2g x0, [x9]
        (0xD50B7429, 0x7C),  # dc zva, x9
        (0xE5404120, 0x80),  # st3w of scalable vectors, [x9, x0, lsl #2]
    ],
)
def test_memory_that_an_arm64_instruction_changes(instruction, offset):
    store = word(0xB90003E2 | offset // 4 << 10)  # str w2, [sp, #offset]
    lines = (word(0xD10803FF), *arm64.PIPO_IN_W2, store, word(0x910003E9))  # sub sp, sp, #0x200; mov x9, sp
    assert numbers(arm64.at_call(*lines, arm64.CALL, location=offset)) == {PIPO}
    assert numbers(arm64.at_call(*lines, word(instruction), arm64.CALL, location=offset)) != {PIPO}


@pytest.mark.parametrize(
    "instruction",
    [
        0xF83FD100,  # ld64b x0, [x8]: eight registers
        0x88A27C03,  # cas w2, w3, [x0]
        0xB8228002,  # swp w2, w2, [x0]
        0x48227C04,  # casp x2, x3, x4, x5, [x0]
        0xC85F7C02,  # ldxr x2, [x0]
        0xC87F0803,  # ldxp x3, x2, [x0]
        0xD9400002,  # ldapur x2, [x0]
        0xF8400802,  # ldtr x2, [x0]
        0xD9600002,  # ldg x2, [x0]
        0x9ADF1002,  # irg x2, x0
        0xD53BD042,  # mrs x2, tpidr_el0
        0xDAC143E2,  # xpaci x2
        0x1E7E0002,  # fjcvtzs w2, d0
    ],
)
def test_registers_that_an_arm64_instruction_changes(instruction):
    assert numbers(arm64.at_call(*arm64.PIPO_IN_W2, word(instruction), arm64.CALL)) != {PIPO}


@pytest.mark.parametrize(("name", "move"), [("x0", 0x2A0203E0), ("x2", 0x2A0203E2), ("x7", 0x2A0203E7)])
def test_eight_registers_are_loaded_at_once(name, move):
    lines = (*arm64.PIPO_IN_W2, word(move))  # mov to that register
    assert numbers(arm64.at_call(*lines, arm64.CALL, location=name)) == {PIPO}
    assert numbers(arm64.at_call(*lines, word(0xF83FD100), arm64.CALL, location=name)) != {PIPO}  # ld64b x0, [x8]
