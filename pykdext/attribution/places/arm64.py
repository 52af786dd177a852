"""Where ARM64 code holds a pool tag: no instruction has room for it, so it is built from two halves.

``movz`` writes 16 bits and clears the others, ``movk`` writes 16 bits and keeps them (Arm Architecture Reference
Manual: move wide). Compilers put other instructions between the two, and may write the upper half first. Registers of
arguments are those of Microsoft's ARM64 calling convention. Only ``movk`` is looked for: its last byte is a literal.
"""

from __future__ import annotations

import re
import struct
from typing import Iterator, Optional, Tuple

from pykdext.attribution.places.bytesearch import ExactSearch
from pykdext.attribution.places.tagencodings import (
    Encoding,
    Immediate,
    Position,
    canonical,
    hint,
    immediate,
    is_plausible,
)
from pykdext.model import Confidence, EvidenceKind

_WORD_BYTES = 4
_PAIR_INSTRUCTIONS = 24  # between the two halves; compilers put about a dozen there
_STORE_INSTRUCTIONS = 8  # behind them, to the store of the value

_ARGUMENTS = {
    0: (Position.FIRST_ARGUMENT, "first argument, as of a driver's own wrapper"),
    1: (Position.SECOND_ARGUMENT, "second argument, as in ExFreePoolWithTag"),
    2: (Position.THIRD_ARGUMENT, "third argument, as in ExAllocatePoolWithTag and ExAllocatePool2"),
    3: (Position.FOURTH_ARGUMENT, "fourth argument, as in FltAllocatePoolAlignedWithTag and WdfMemoryCreate"),
    4: (Position.OTHER_ARGUMENT, "argument 5"),
    5: (Position.OTHER_ARGUMENT, "argument 6, as in ExInitializeNPagedLookasideList"),
    6: (Position.OTHER_ARGUMENT, "argument 7, as in ExInitializeLookasideListEx"),
    7: (Position.OTHER_ARGUMENT, "argument 8"),
}
_SCRATCH = range(8, 19)
_NONVOLATILE = range(19, 29)
_FRAME_POINTER, _STACK_POINTER = 29, 31


def _register_row(number: int) -> Encoding:
    form = f"movz, movk w{number}, {{tag}}"
    if number in _ARGUMENTS:
        position, meaning = _ARGUMENTS[number]
        return immediate(form, position, Confidence.LIKELY, meaning)
    if number in _NONVOLATILE:
        return immediate(form, Position.REGISTER, Confidence.LIKELY, "kept in a register for later calls")
    return immediate(form, Position.REGISTER, Confidence.POSSIBLE, "in a scratch register")


_REGISTERS = tuple(_register_row(number) for number in range(32))
_WIDE_REGISTERS = tuple(
    immediate(f"movz, movk x{number}, {{tag}}", Position.REGISTER, Confidence.POSSIBLE, "half of a 64-bit constant")
    for number in range(32)
)
_FRAME = immediate(
    "movz, movk, str [sp+offset], {tag}",
    Position.FRAME,
    Confidence.POSSIBLE,
    "a local variable or structure",
)
_LITERAL = hint(EvidenceKind.BYTES, "dword {tag}", "among the instructions: a literal pool", is_literal=True)


# Fields of movz and movk: bit 31 is set for a 64-bit register, bit 29 for movk; two bits of shift, in steps of 16 bits;
# 16 bits of value; the register.

_IS_WIDE, _KEEPS = 0x80000000, 0x20000000
_SHIFT_AT, _HALF_AT = 21, 5
_SAME_REGISTER = 0xDF80001F  # equal in every movz and movk of one register
_REGISTER = 0x1F

# movk has 72 or F2 in its last byte. The byte before that: a one, two bits of shift, five bits of the half; then eight
# bits of the half. The upper five bits of a character are 4 to 15, and 20 to 31 with the bit of PROTECTED_POOL.

_SECOND_CHARACTER = rb"[\x04-\x0f\x24-\x2f\x44-\x4f\x64-\x6f\x84-\x8f\xa4-\xaf\xc4-\xcf\xe4-\xef]"
_PLAUSIBLE_HALVES = (
    re.compile(rb"\x72(?<=" + _SECOND_CHARACTER + rb"[\x84-\x8f\xa4-\xaf\xb4-\xbf]\x72)", re.DOTALL),
    re.compile(rb"\xf2(?<=" + _SECOND_CHARACTER + rb"[\x84-\x8f\xa4-\xaf\xb4-\xcf\xe4-\xef\xf4-\xff]\xf2)", re.DOTALL),
)
_HALVES = (re.compile(rb"\x72(?<=[\x80-\xbf]\x72)"), re.compile(rb"\xf2(?<=[\x80-\xff]\xf2)"))


class Arm64Code:
    """The code table of ARM64."""

    alignment = _WORD_BYTES
    reach_bytes = _PAIR_INSTRUCTIONS * _WORD_BYTES
    encodings = (*_REGISTERS, *_WIDE_REGISTERS, _FRAME)

    def iter_immediates(self, code: bytes) -> Iterator[Immediate]:
        """Every pair whose value looks like a tag; its offset is that of the ``movk``."""
        for found in _iter_pairs(code, _PLAUSIBLE_HALVES):
            if is_plausible(found.tag):
                yield found

    def iter_exact(self, code: bytes, search: ExactSearch) -> Iterator[Immediate]:
        """Pairs that make one of the tags and look like none, and aligned dwords among the instructions."""
        numbers = {tag for tag in search.tags if not is_plausible(tag)}
        if numbers:
            yield from (found for found in _iter_pairs(code, _HALVES) if canonical(found.tag) in numbers)
        for offset, tag in search.iter_offsets(code):
            if offset % _WORD_BYTES == 0:
                yield Immediate(offset, tag, _LITERAL)


ARM64_CODE = Arm64Code()
"""The instructions of ARM64."""


def _iter_pairs(code: bytes, passes: Tuple[re.Pattern[bytes], ...]) -> Iterator[Immediate]:
    """Every ``movk`` that one of ``passes`` finds, with the half that the register had before, by ascending offset."""
    ends = sorted(match.end() for one in passes for match in one.finditer(code) if match.end() % _WORD_BYTES == 0)
    for end in ends:
        offset = end - _WORD_BYTES
        (word,) = _words(code, offset, end)
        other = _find_other_half(code, offset, word)
        if other is not None:
            low, high = (word, other) if not word >> _SHIFT_AT & 1 else (other, word)
            number = low >> _HALF_AT & 0xFFFF | (high >> _HALF_AT & 0xFFFF) << 16
            yield Immediate(offset, number.to_bytes(4, "little"), _classify(code, end, word))


def _find_other_half(code: bytes, offset: int, movk: int) -> Optional[int]:
    """The instruction before ``offset`` that wrote the other half of the same four bytes; None if nothing did."""
    register, other_shift = movk & _SAME_REGISTER, movk >> _SHIFT_AT & 3 ^ 1
    for word in reversed(_words(code, max(offset - Arm64Code.reach_bytes, 0), offset)):
        if word & _SAME_REGISTER == register:
            if word >> _SHIFT_AT & 3 == other_shift:
                return word
            if not word & _KEEPS:
                return None  # the other half is zero
    return None


def _classify(code: bytes, behind: int, movk: int) -> Encoding:
    """What the register of ``movk`` is for; of one without a role, whether the next instructions store it."""
    register = movk & _REGISTER
    if movk & _IS_WIDE:
        return _WIDE_REGISTERS[register]
    if register in _SCRATCH:
        for word in _words(code, behind, behind + _STORE_INSTRUCTIONS * _WORD_BYTES):
            is_store = word & 0xFFC00000 == 0xB9000000  # str w, [base, #offset]
            if is_store and word & _REGISTER == register and word >> 5 & 0x1F in (_FRAME_POINTER, _STACK_POINTER):
                return _FRAME
    return _REGISTERS[register]


def _words(code: bytes, start: int, stop: int) -> Tuple[int, ...]:
    """The instructions from ``start`` to ``stop``, as far as there are any."""
    count = max(min(stop, len(code)) - start, 0) // _WORD_BYTES
    words: Tuple[int, ...] = struct.unpack_from(f"<{count}I", code, start)
    return words
