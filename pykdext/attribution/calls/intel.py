"""What of x86 and x64 code is read without decoding it: calls, references to variables.

Encodings are those of the Intel SDM: ``E8`` and ``E9`` with a displacement from the next instruction. x64 addresses
relative to the next instruction, x86 by the whole address.
"""

from __future__ import annotations

import operator
import re
import struct
from typing import Collection, FrozenSet, Iterator, Mapping, NamedTuple, Optional, Pattern, Tuple

from pykdext.attribution.calls.codereader import OFFSET_BITS, Reference, TargetIndex
from pykdext.images.image import Image

_CALL = re.compile(rb"[\xe8\xe9](?=.{4})", re.DOTALL)
_CALL_BYTES = 5
_START, _END = operator.methodcaller("start"), operator.methodcaller("end")
_ADDRESS, _DISPLACEMENT = struct.Struct("<I"), struct.Struct("<i")

_PREFIXES = frozenset((0x66, 0xF0, 0xF2, 0xF3))
_DISPLACEMENT_BYTES = 4

# Opcodes that read their operand in memory or take its address, by the bytes of an immediate behind the displacement:
# arithmetic, movsxd, test, xchg, mov, lea, shifts, and the groups of not, inc, call and push. Stores are left out.
_READS: Mapping[int, FrozenSet[int]] = {
    0: frozenset(
        (
            *(row + column for row in range(0x00, 0x40, 8) for column in range(4)),
            *(0x63, 0x84, 0x85, 0x86, 0x87, 0x8A, 0x8B, 0x8D, 0xD1, 0xD3, 0xF6, 0xF7, 0xFE, 0xFF),
        )
    ),
    1: frozenset((0x6B, 0x80, 0x83, 0xC0, 0xC1, 0xF6)),
    4: frozenset((0x69, 0x81, 0xF7)),
}
# The same behind 0F: loads, conversions and arithmetic of SSE, cmov, bt, imul, cmpxchg, movzx, movsx, xadd.
_READS_0F: Mapping[int, FrozenSet[int]] = {
    0: frozenset(
        (
            *(0x10, 0x12, 0x14, 0x15, 0x16, 0x28, 0x2A, 0x2C, 0x2D, 0x2E, 0x2F, 0x74, 0x75, 0x76, 0x7E),
            *range(0x40, 0x70),
            *(0xA3, 0xAB, 0xAF, 0xB0, 0xB1, 0xB3, 0xB6, 0xB7, *range(0xBB, 0xC2)),
            *(opcode for opcode in range(0xD0, 0xFF) if opcode not in (0xD6, 0xE7)),
        )
    ),
    1: frozenset((0x70, 0xA4, 0xAC, 0xBA, 0xC2, 0xC4, 0xC6)),
    4: frozenset(),
}

# Opcodes that write their operand in memory: arithmetic, xchg, mov; behind 0F stores of SSE, cmpxchg, xadd.
_WRITES: Mapping[int, FrozenSet[int]] = {
    0: frozenset((*(row + column for row in range(0x00, 0x38, 8) for column in range(2)), *range(0x86, 0x8A))),
    1: frozenset((0xC6,)),
    4: frozenset((0xC7,)),
}
_WRITES_0F: Mapping[int, FrozenSet[int]] = {
    0: frozenset((0x11, 0x13, 0x17, 0x29, 0x7F, 0xB0, 0xB1, 0xC0, 0xC1, 0xD6)),
    1: frozenset(),
    4: frozenset(),
}


class _Opcodes(NamedTuple):
    """By the bytes of an immediate behind the displacement."""

    plain: Mapping[int, FrozenSet[int]]
    behind_0f: Mapping[int, FrozenSet[int]]


_READING, _WRITING = _Opcodes(_READS, _READS_0F), _Opcodes(_WRITES, _WRITES_0F)


def iter_calls(rva: int, code: bytes) -> Iterator[int]:
    """The calls and jumps in code at ``rva``, packed as ``TargetIndex`` takes them."""
    read_displacement = _DISPLACEMENT.unpack_from
    next_rva = rva + _CALL_BYTES
    for match in _CALL.finditer(code):
        start = match.start()
        yield next_rva + start + read_displacement(code, start + 1)[0] << OFFSET_BITS | start


class RelativeOperands:
    """x64: the operand [rip+disp32] is relative to the end of the instruction, perhaps behind an immediate."""

    def __init__(self, image: Image, rva: int, code: bytes) -> None:
        self._rva = rva
        read_displacement = _DISPLACEMENT.unpack_from
        next_rva = rva + _DISPLACEMENT_BYTES
        matches = re.finditer(rb"M(?=...[MF])", code.translate(_fold_relative(image.size)), re.DOTALL)
        self._index = TargetIndex(
            (next_rva + end + read_displacement(code, end)[0] << OFFSET_BITS) | end - 1 for end in map(_END, matches)
        )

    def iter_references(self, code: bytes, wanted: Collection[int]) -> Iterator[Reference]:
        """Instructions that read."""
        return self._iter_uses(code, wanted, _READING)

    def iter_stores(self, code: bytes, wanted: Collection[int]) -> Iterator[Reference]:
        """Instructions that write."""
        return self._iter_uses(code, wanted, _WRITING)

    def _iter_uses(self, code: bytes, wanted: Collection[int], opcodes: _Opcodes) -> Iterator[Reference]:
        for variable in wanted:
            places = [
                (offset, immediate_bytes)
                for immediate_bytes in _READS
                for offset in self._index.find(variable - immediate_bytes)
            ]
            for offset, immediate_bytes in sorted(places):
                start = _find_start(code, offset - 1, (immediate_bytes,), opcodes, has_rex=True)
                if start is not None:
                    yield Reference(variable, self._rva + start)


def _fold_relative(image_bytes: int) -> bytes:
    """Classes of bytes: M the modrm of [rip+disp32], F the last byte of a displacement within the image, or others."""
    far = image_bytes >> 24
    is_far = [not far < byte < 0xFF - far for byte in range(256)]
    return bytes(0x4D if byte & 0xC7 == 0x05 else 0x46 if is_far[byte] else 0x2E for byte in range(256))


class AbsoluteOperands:
    """x86: the four bytes of the address, as a displacement or an immediate."""

    def __init__(self, image: Image, rva: int, code: bytes) -> None:
        self._rva = rva
        base, mask = image.module.base, 0xFFFFFFFF
        read_address = _ADDRESS.unpack_from
        offsets = map(_START, _match_addresses(base & mask, image.size).finditer(code))
        variables = ((read_address(code, offset)[0] - base & mask, offset) for offset in offsets)
        self._index = TargetIndex(
            variable << OFFSET_BITS | offset for variable, offset in variables if variable < image.size
        )

    def iter_references(self, code: bytes, wanted: Collection[int]) -> Iterator[Reference]:
        """Instructions that read, or take the address."""
        for variable in wanted:
            for offset in self._index.find(variable):
                start = _find_absolute_start(code, offset)
                if start is not None:
                    yield Reference(variable, self._rva + start)

    def iter_stores(self, code: bytes, wanted: Collection[int]) -> Iterator[Reference]:
        """Instructions that write: the address is their displacement."""
        for variable in wanted:
            for offset in self._index.find(variable):
                before = code[offset - 1] if offset else 0
                start = offset - 1 if before in (0xA2, 0xA3) else None  # mov of the accumulator
                if before & 0xC7 == 0x05:
                    start = _find_start(code, offset - 2, tuple(_WRITES), _WRITING, has_rex=False)
                if start is not None:
                    yield Reference(variable, self._rva + start)


def _match_addresses(base: int, image_bytes: int) -> Pattern[bytes]:
    """Four bytes whose upper two are those of an address in an image, which may reach over 4 GiB's end."""
    uppers = {upper & 0xFFFF for upper in range(base >> 16, (base + image_bytes >> 16) + 1)}
    thirds = re.escape(bytes({upper & 0xFF for upper in uppers}))
    fourths = re.escape(bytes({upper >> 8 for upper in uppers}))
    return re.compile(rb"(?=..[%b][%b])" % (thirds, fourths), re.DOTALL)


def _find_absolute_start(code: bytes, offset: int) -> Optional[int]:
    """Where the x86 instruction begins that has an address at ``offset``; None if none that reads may be there."""
    four, three, two, one = code[max(offset - 4, 0) : offset].rjust(4, b"\0")
    if one in (0xA0, 0xA1, 0x68) or one & 0xF8 == 0xB8:  # mov of the accumulator, push, mov of an immediate
        return offset - 1
    lengths = tuple(_READS)
    is_displacement = one & 0xC7 == 0x05 or (one & 0xC0 == 0x80 and one & 7 != 4)
    start = _find_start(code, offset - 2, lengths, _READING, has_rex=False) if is_displacement else None
    if start is None and two & 0x07 == 4 and two & 0xC0 in (0x00, 0x80):  # behind a SIB
        start = _find_start(code, offset - 3, lengths, _READING, has_rex=False)
    if start is not None:
        return start
    if (two == 0x81 and one >= 0xC0) or (two == 0xC7 and one < 0x40 and one & 7 not in (4, 5)):
        return offset - 2  # arithmetic with the address, a store of it
    if three == 0xC7 and (two & 0xC0 == 0x40 or two == 0x04):
        return offset - 3
    return offset - 4 if four == 0xC7 and three & 0xC7 == 0x44 else None


def _find_start(
    code: bytes, opcode_offset: int, lengths: Tuple[int, ...], opcodes: _Opcodes, *, has_rex: bool
) -> Optional[int]:
    """Where the instruction begins whose opcode ends at ``opcode_offset``; None if it is none of ``opcodes``.

    Its immediate has one of these ``lengths``.
    """
    start, chosen = opcode_offset, opcodes.plain
    if start > 0 and code[start - 1] == 0x0F:
        start, chosen = start - 1, opcodes.behind_0f
    if opcode_offset < 0 or not any(code[opcode_offset] in chosen[length] for length in lengths):
        return None
    if has_rex and start > 0 and code[start - 1] & 0xF0 == 0x40:
        start -= 1
    return start - 1 if start > 0 and code[start - 1] in _PREFIXES else start
