"""Functions of a made driver, one behind another, for the three processors: what compilers make of an idiom.

Instructions are given as assembly; their bytes stand in ``encodings.py``. What refers to a place, or holds a tag, is a
method of the program: ``call``, ``call_slot``, ``load``, ``address``, ``tag``.
"""

from __future__ import annotations

import struct

from pykdext.model import Machine
from tests.attribution.calls.test_callees import CODE_RVA, NARROW_BASES
from tests.helpers.encodings import ENCODINGS

X64_REGISTERS = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{number}" for number in range(8, 16)))
X86_REGISTERS = ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi")


class Program:
    """The code of a driver at ``CODE_RVA``. A part of a function is a line, bytes, or one that knows its place."""

    def __init__(self):
        self.bytes = b""

    @property
    def rva(self):
        return CODE_RVA + len(self.bytes)

    def add(self, *parts, align=16, before=0):
        """A function, at a multiple of ``align`` and ``before`` bytes more of filling; where it begins."""
        self.bytes += self.filler * (-(-before // len(self.filler)))
        start = self.rva
        for part in parts:
            self.bytes += part(self.rva) if callable(part) else part if isinstance(part, bytes) else self.encode(part)
        padding = -len(self.bytes) % align or (align if align > 1 else 0)
        self.bytes += self.filler * (padding // len(self.filler))
        return start

    def encode(self, line):
        return bytes.fromhex(ENCODINGS[self.machine][line])


class X64Program(Program):
    machine, filler = Machine.X64, b"\xcc"
    enter, leave = ("sub rsp, 0x28",), ("add rsp, 0x28", "ret")
    first_arguments = ("mov ecx, 1", "mov edx, 0x40")
    tag_register = "r8"

    def _relative(self, opcode, rva):
        return lambda place: opcode + struct.pack("<i", rva - (place + len(opcode) + 4))

    def _operand(self, opcode, register, rva, *, is_wide):
        number = X64_REGISTERS.index(register)
        prefix = bytes([0x40 | is_wide << 3 | number >> 3 << 2]) if is_wide or number > 7 else b""
        return self._relative(prefix + opcode + bytes([(number & 7) << 3 | 5]), rva)

    def call(self, rva):
        return self._relative(b"\xe8", rva)

    def jump(self, rva):
        return self._relative(b"\xe9", rva)

    def call_slot(self, rva):
        return self._relative(b"\xff\x15", rva)

    def jump_slot(self, rva):
        return self._relative(b"\xff\x25", rva)

    def load(self, register, rva, *, is_wide=False):
        return self._operand(b"\x8b", register, rva, is_wide=is_wide)

    def store(self, register, rva):
        return self._operand(b"\x89", register, rva, is_wide=False)

    def address(self, register, rva):
        return self._operand(b"\x8d", register, rva, is_wide=True)

    def tag(self, register, tag):
        number = X64_REGISTERS.index(register)
        return (b"\x41" if number > 7 else b"") + bytes([0xB8 | number & 7]) + tag


class X86Program(Program):
    machine, filler = Machine.X86, b"\xcc"

    def __init__(self, base=NARROW_BASES[1]):
        super().__init__()
        self.base = base

    def _relative(self, opcode, rva):
        return lambda place: opcode + struct.pack("<i", rva - (place + len(opcode) + 4))

    def absolute(self, opcode, rva):
        return opcode + struct.pack("<I", self.base + rva)

    def call(self, rva):
        return self._relative(b"\xe8", rva)

    def jump(self, rva):
        return self._relative(b"\xe9", rva)

    def call_slot(self, rva):
        return self.absolute(b"\xff\x15", rva)

    def jump_slot(self, rva):
        return self.absolute(b"\xff\x25", rva)

    def load(self, register, rva):
        return self.absolute(bytes([0x8B, X86_REGISTERS.index(register) << 3 | 5]), rva)

    def store(self, register, rva):
        return self.absolute(bytes([0x89, X86_REGISTERS.index(register) << 3 | 5]), rva)

    def address(self, register, rva):
        return self.absolute(bytes([0xB8 | X86_REGISTERS.index(register)]), rva)

    def tag(self, register, tag):
        return bytes([0xB8 | X86_REGISTERS.index(register)]) + tag

    def push(self, tag):
        return b"\x68" + tag


class Arm64Program(Program):
    machine, filler = Machine.ARM64, struct.pack("<I", 0xD503201F)
    enter, leave = ("stp x29, x30, [sp, #-0x10]!",), ("ldp x29, x30, [sp], #0x10", "ret")
    first_arguments = ("mov w0, #1", "mov w1, #0x40")
    tag_register = "x2"

    def call(self, rva):
        return lambda place: struct.pack("<I", 0x94000000 | (rva - place) // 4 & 0x3FFFFFF)

    def jump(self, rva):
        return lambda place: struct.pack("<I", 0x14000000 | (rva - place) // 4 & 0x3FFFFFF)

    def call_slot(self, rva):
        return lambda place: self.load("x8", rva, is_wide=True)(place) + struct.pack("<I", 0xD63F0100)

    def jump_slot(self, rva):
        return lambda place: self.load("x8", rva, is_wide=True)(place) + struct.pack("<I", 0xD61F0100)

    def load(self, register, rva, *, is_wide=False):
        number, size = int(register[1:]), 8 if is_wide else 4
        opcode = (0xF9400000 if is_wide else 0xB9400000) | (rva & 0xFFF) // size << 10
        return lambda place: self._page(8, rva, place) + struct.pack("<I", opcode | 8 << 5 | number)

    def store(self, register, rva):
        opcode = 0xB9000000 | (rva & 0xFFF) // 4 << 10 | 8 << 5 | int(register[1:])
        return lambda place: self._page(8, rva, place) + struct.pack("<I", opcode)

    def address(self, register, rva):
        number = int(register[1:])
        low = 0x91000000 | (rva & 0xFFF) << 10 | number << 5 | number
        return lambda place: self._page(number, rva, place) + struct.pack("<I", low)

    def _page(self, register, rva, place):
        pages = (rva >> 12) - (place >> 12)
        return struct.pack("<I", 0x90000000 | (pages & 3) << 29 | (pages >> 2 & 0x7FFFF) << 5 | register)

    def tag(self, register, tag):
        """movz, movk."""
        number = int(register[1:])
        low, high = struct.unpack("<HH", tag)
        return struct.pack("<II", 0x52800000 | low << 5 | number, 0x72A00000 | high << 5 | number)


PROGRAMS = {Machine.X64: X64Program, Machine.X86: X86Program, Machine.ARM64: Arm64Program}
