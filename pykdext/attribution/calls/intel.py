"""What of x86 and x64 code is read without decoding it: calls, references to variables, numbers.

Encodings are those of the Intel SDM: ``E8`` and ``E9`` with a displacement from the next instruction. x64 addresses
relative to the next instruction, x86 by the whole address.
"""

from __future__ import annotations

import re
import struct
from typing import Collection, Dict, FrozenSet, Iterator, List, Mapping, Optional, Tuple

from pykdext.attribution.calls.codereader import TAG_MASK, Reference
from pykdext.attribution.places.tagencodings import TAG, TAG_BYTES
from pykdext.images.image import Image
from pykdext.model import PROTECTED_POOL

_CALL = re.compile(rb"[\xe8\xe9](?=.{4})", re.DOTALL)
_CALL_BYTES = 5
_DISPLACEMENT = struct.Struct("<i")

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

_TAG_ANYWHERE = re.compile(rb"(?=(" + TAG + rb"))", re.DOTALL)
_ONE_CHARACTER = frozenset(change << shift for shift in range(0, 8 * TAG_BYTES, 8) for change in range(1, 0x100))
"""How two numbers differ, bit by bit, that have three bytes in common."""


def iter_calls(rva: int, code: bytes, wanted: FrozenSet[int], mask: int) -> Iterator[int]:
    """The RVAs of calls and jumps to ``wanted`` in code at ``rva``; ``mask`` has the bits of an address."""
    read_displacement = _DISPLACEMENT.unpack_from
    for match in _CALL.finditer(code):
        end = match.end()
        if rva + end + _CALL_BYTES - 1 + read_displacement(code, end)[0] & mask in wanted:
            yield rva + end - 1


def iter_relative(image: Image, rva: int, code: bytes, wanted: Collection[int]) -> Iterator[Reference]:
    """x64: the operand [rip+disp32] is relative to the end of the instruction, perhaps behind an immediate."""
    variables: Dict[int, List[Tuple[int, int]]] = {}
    for immediate_bytes in _READS:
        for variable in wanted:
            variables.setdefault(variable - immediate_bytes, []).append((variable, immediate_bytes))
    read_displacement = struct.Struct("<i").unpack_from
    for match in re.finditer(rb"M(?=...[MF])", code.translate(_fold_relative(image.size)), re.DOTALL):
        (displacement,) = read_displacement(code, match.end())
        target = rva + match.end() + _DISPLACEMENT_BYTES + displacement
        for variable, immediate_bytes in variables.get(target, ()):
            start = _find_start(code, match.start() - 1, (immediate_bytes,), has_rex=True)
            if start is not None:
                yield Reference(variable, rva + start)


def _fold_relative(image_bytes: int) -> bytes:
    """Classes of bytes: M the modrm of [rip+disp32], F the last byte of a displacement within the image, or others."""
    far = image_bytes >> 24
    is_far = [not far < byte < 0xFF - far for byte in range(256)]
    return bytes(0x4D if byte & 0xC7 == 0x05 else 0x46 if is_far[byte] else 0x2E for byte in range(256))


def iter_absolute(image: Image, rva: int, code: bytes, wanted: Collection[int]) -> Iterator[Reference]:
    """x86: the four bytes of the address, as a displacement or an immediate."""
    for variable in wanted:
        address = (image.module.base + variable & 0xFFFFFFFF).to_bytes(4, "little")
        offset = code.find(address)
        while offset >= 0:
            start = _find_absolute_start(code, offset)
            if start is not None:
                yield Reference(variable, rva + start)
            offset = code.find(address, offset + 1)


def _find_absolute_start(code: bytes, offset: int) -> Optional[int]:
    """Where the x86 instruction begins that has an address at ``offset``; None if none that reads may be there."""
    four, three, two, one = code[max(offset - 4, 0) : offset].rjust(4, b"\0")
    if one in (0xA0, 0xA1, 0x68) or one & 0xF8 == 0xB8:  # mov of the accumulator, push, mov of an immediate
        return offset - 1
    lengths = tuple(_READS)
    is_displacement = one & 0xC7 == 0x05 or (one & 0xC0 == 0x80 and one & 7 != 4)
    start = _find_start(code, offset - 2, lengths, has_rex=False) if is_displacement else None
    if start is None and two & 0x07 == 4 and two & 0xC0 in (0x00, 0x80):  # behind a SIB
        start = _find_start(code, offset - 3, lengths, has_rex=False)
    if start is not None:
        return start
    if (two == 0x81 and one >= 0xC0) or (two == 0xC7 and one < 0x40 and one & 7 not in (4, 5)):
        return offset - 2  # arithmetic with the address, a store of it
    if three == 0xC7 and (two & 0xC0 == 0x40 or two == 0x04):
        return offset - 3
    return offset - 4 if four == 0xC7 and three & 0xC7 == 0x44 else None


def _find_start(code: bytes, opcode_offset: int, lengths: Tuple[int, ...], *, has_rex: bool) -> Optional[int]:
    """Where the instruction begins whose opcode ends at ``opcode_offset``; None if it does not read.

    Its immediate has one of these ``lengths``.
    """
    start, reads = opcode_offset, _READS
    if start > 0 and code[start - 1] == 0x0F:
        start, reads = start - 1, _READS_0F
    if opcode_offset < 0 or not any(code[opcode_offset] in reads[length] for length in lengths):
        return None
    if has_rex and start > 0 and code[start - 1] & 0xF0 == 0x40:
        start -= 1
    return start - 1 if start > 0 and code[start - 1] in _PREFIXES else start


class IntelNumbers:
    """Whatever four bytes of x86 and x64 code may be an operand."""

    def __init__(self, code: bytes) -> None:
        self._code = code
        tags = (match.group(1) for match in _TAG_ANYWHERE.finditer(code))
        self._bases = {int.from_bytes(tag, "little") & TAG_MASK for tag in tags}

    def can_make(self, number: int) -> bool:
        """By a shift, by a change of one character, or by the difference to another tag, which must be there, too."""
        return self._holds_shifted(number) or any(
            base ^ number in _ONE_CHARACTER or self._holds(number - base) or self._holds(number ^ base)
            for base in self._bases
        )

    def _holds_shifted(self, number: int) -> bool:
        zero_bits = (number & -number).bit_length() - 1
        shifted = (tag >> max(zero_bits, 0) for tag in (number, number | PROTECTED_POOL))
        return any(tag.to_bytes(TAG_BYTES, "little") in self._code for tag in shifted)

    def _holds(self, difference: int) -> bool:
        """By the lower three bytes: the last one depends on PROTECTED_POOL."""
        return (difference & 0xFFFFFF).to_bytes(3, "little") in self._code
