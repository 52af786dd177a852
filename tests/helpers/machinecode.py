"""Machine code of functions one behind another, for the made driver of ``test_callees.System``."""

from __future__ import annotations

import struct

from tests.attribution.calls.test_callees import CODE_RVA, NARROW_BASES

RELATIVE = (b"\xe8", b"\xe9")


class X86Code:
    """Functions one behind another, each at a multiple of 16."""

    def __init__(self, base=NARROW_BASES[1]):
        self.base = base
        self.bytes = b""

    @property
    def rva(self):
        return CODE_RVA + len(self.bytes)

    def add(self, *parts):
        """``bytes`` as they are; ``(opcode, rva)``: an instruction that ends with the address, or for a call or jump
        with the distance."""
        start = self.rva
        for part in parts:
            self.bytes += part if isinstance(part, bytes) else self._refer(*part)
        self.bytes += b"\xcc" * (16 - len(self.bytes) % 16)
        return start

    def _refer(self, opcode, rva):
        number = rva - (self.rva + len(opcode) + 4) if opcode in RELATIVE else self.base + rva
        return opcode + struct.pack("<I", number & 0xFFFFFFFF)


class Arm64Code:
    """Functions one behind another, each at a multiple of 16."""

    def __init__(self):
        self.bytes = b""

    @property
    def rva(self):
        return CODE_RVA + len(self.bytes)

    def add(self, *parts):
        """Words as they are, ``bytes`` too; functions get the place and give a word: ``bl``, ``adrp``."""
        start = self.rva
        for part in parts:
            self.bytes += (
                part if isinstance(part, bytes) else struct.pack("<I", part(self.rva) if callable(part) else part)
            )
        self.bytes += struct.pack("<I", NOP) * (-len(self.bytes) // 4 % 4)
        return start


NOP, RET = 0xD503201F, 0xD65F03C0
ENTER, LEAVE = 0xA9BF7BFD, 0xA8C17BFD  # stp x29, x30, [sp, #-16]!; ldp x29, x30, [sp], #16


def bl(rva):
    return lambda place: 0x94000000 | (rva - place) // 4 & 0x3FFFFFF


def b(rva):
    return lambda place: 0x14000000 | (rva - place) // 4 & 0x3FFFFFF


def adrp(register, rva):
    def word(place):
        pages = (rva >> 12) - (place >> 12)
        return 0x90000000 | (pages & 3) << 29 | (pages >> 2 & 0x7FFFF) << 5 | register

    return word


def add_low(register, rva):
    """add x, x, #the low twelve bits."""
    return 0x91000000 | (rva & 0xFFF) << 10 | register << 5 | register


def load_low(register, base, rva, size=8):
    """ldr x or w, [x, #the low twelve bits]."""
    opcode = 0xF9400000 if size == 8 else 0xB9400000
    return opcode | (rva & 0xFFF) // size << 10 | base << 5 | register


def mov(register, number, shift=0):
    """movz w, #number, lsl #shift."""
    return 0x52800000 | shift // 16 << 21 | number << 5 | register


def tag_in(register, tag):
    """movz, movk: a tag in a register."""
    low, high = struct.unpack("<HH", tag)
    return mov(register, low), 0x72A00000 | high << 5 | register
