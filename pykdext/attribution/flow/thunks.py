"""Code that is nothing but a jump to somewhere else: import thunks, long branches, dispatchers.

Encodings are those of the Intel SDM and of the Arm Architecture Reference Manual. The few instructions are matched
byte by byte, so that to look at a callee costs no disassembler.
"""

from __future__ import annotations

import re
import struct
from typing import List, Optional

from pykdext.attribution.flow.values import Atom, Constant, ImageRead, Unknown
from pykdext.images.image import Image
from pykdext.model import Machine

_THUNK_BYTES = 20
"""Enough for a landing pad (endbr64, bti), a load and a jump."""

_INTEL_LANDING_PAD = b"\xf3\x0f\x1e\xfa"
_JUMP_RELATIVE = re.compile(rb"\xe9(....)", re.DOTALL)
_JUMP_SHORT = re.compile(rb"\xeb(.)", re.DOTALL)
_JUMP_POINTER = re.compile(rb"\x48?\xff\x25(....)", re.DOTALL)
_JUMP_REGISTER = re.compile(rb"[\x40-\x4f]?\xff[\xe0-\xe7]", re.DOTALL)
# mov rax | r10 | r11, [rip+n] or mov eax, [n] and a jump: to that register, or to a dispatcher that jumps to it.
_LOAD_AND_JUMP_X64 = re.compile(
    rb"(?:\x48\x8b\x05|\x4c\x8b[\x15\x1d])(....)(?:[\x40-\x4f]?\xff[\x25\xe0-\xe7]|\xe9)", re.DOTALL
)
_LOAD_AND_JUMP_X86 = re.compile(rb"\xa1(....)\xff\xe0", re.DOTALL)

_ARM64_LANDING_PADS = {0xD503241F, 0xD503245F, 0xD503249F, 0xD50324DF}
_ARM64_PAGE = 0x1000


def read_thunk(image: Image, rva: int) -> Optional[Atom]:
    """Where the code at ``rva`` jumps at once, or None if it does something else or is not in memory.

    A Constant is a virtual address, an ImageRead a pointer of the image; Unknown: to what a register holds.
    """
    for size in range(_THUNK_BYTES, 0, -4):
        code = image.read(rva, size)
        if code is not None:
            return _read_arm64(image, rva, code) if image.machine is Machine.ARM64 else _read_intel(image, rva, code)
    return None


def _read_intel(image: Image, rva: int, code: bytes) -> Optional[Atom]:
    if code.startswith(_INTEL_LANDING_PAD):
        rva, code = rva + len(_INTEL_LANDING_PAD), code[len(_INTEL_LANDING_PAD) :]
    for pattern in (_JUMP_RELATIVE, _JUMP_SHORT):
        match = pattern.match(code)
        if match:
            return _address(image, rva + match.end() + int.from_bytes(match.group(1), "little", signed=True))
    load_and_jump = _LOAD_AND_JUMP_X86 if image.machine is Machine.X86 else _LOAD_AND_JUMP_X64
    match = _JUMP_POINTER.match(code) or load_and_jump.match(code)
    if match:
        place = int.from_bytes(match.group(1), "little", signed=image.machine is not Machine.X86)
        if image.machine is Machine.X86:
            return ImageRead(place - image.module.base, 4)
        return ImageRead(rva + match.end(1) + place, 8)
    return Unknown() if _JUMP_REGISTER.match(code) else None


def _read_arm64(image: Image, rva: int, code: bytes) -> Optional[Atom]:
    words = [word for (word,) in struct.iter_unpack("<I", code)]
    if words[0] in _ARM64_LANDING_PADS:
        rva, words = rva + 4, words[1:]
    if words and words[0] >> 26 == 0b000101:  # b
        return _address(image, rva + 4 * _signed(words[0], 26))
    if words and _is_jump_register(words[0]):
        return Unknown()
    return _read_arm64_sequence(image, rva, words) if len(words) >= 3 else None


def _read_arm64_sequence(image: Image, rva: int, words: List[int]) -> Optional[Atom]:
    """``adrp``, then ``ldr`` or ``add``, then ``br``, all of one register."""
    register = words[0] & 31
    operands = (words[1] & 31, words[1] >> 5 & 31, words[2] >> 5 & 31)
    if words[0] & 0x9F000000 != 0x90000000 or not _is_jump_register(words[2]) or set(operands) != {register}:
        return None
    pages = _signed(words[0] >> 5, 19) * 4 + (words[0] >> 29 & 3)
    page_rva = rva - rva % _ARM64_PAGE + pages * _ARM64_PAGE
    unsigned_offset = words[1] >> 10 & 0xFFF
    if words[1] & 0xFFC00000 == 0xF9400000:  # ldr
        return ImageRead(page_rva + 8 * unsigned_offset, 8)
    if words[1] & 0xFFC00000 == 0x91000000:  # add
        return _address(image, page_rva + unsigned_offset)
    return None


def _is_jump_register(word: int) -> bool:
    return word & 0xFFFFFC1F == 0xD61F0000  # br


def _address(image: Image, rva: int) -> Constant:
    """The virtual address of ``rva``, which may lie outside of the image."""
    return Constant((image.module.base + rva) % (1 << 8 * image.machine.pointer_size))


def _signed(field: int, bits: int) -> int:
    """The lowest ``bits`` of ``field`` as a signed number."""
    field &= (1 << bits) - 1
    return field - (1 << bits) if field >> (bits - 1) else field
