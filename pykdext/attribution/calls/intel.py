"""What of x86 and x64 code is read without decoding it: calls, references to variables, numbers.

Encodings are those of the Intel SDM: ``E8`` and ``E9`` with a displacement from the next instruction. x64 addresses
relative to the next instruction, x86 by the whole address.
"""

from __future__ import annotations

import re
import struct
from typing import Collection, Dict, FrozenSet, Iterator, List, Mapping, NamedTuple, Optional, Tuple

from pykdext.attribution.calls.codereader import TAG_MASK, Reference
from pykdext.attribution.places.tagencodings import PROTECTED_TEXT, TAG_BYTES, TEXT
from pykdext.images.image import Image
from pykdext.model import PROTECTED_POOL
from pykdext.units import count_things

_CALL = re.compile(rb"[\xe8\xe9](?=.{4})", re.DOTALL)
_CALL_BYTES = 5
_COUNT = _BASE = struct.Struct("<I")
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

_TAGS = re.compile(rb"[" + TEXT + rb"]{3,}[" + PROTECTED_TEXT + rb"]?", re.DOTALL)
"""Any four bytes of a match look like a tag, and so no others."""

_NUMBER_FOLLOWS = frozenset((*range(0xB8, 0xC0), *range(0x05, 0x40, 8), 0x68, 0xA9))
"""``mov`` of a register, arithmetic and ``test`` with the accumulator, ``push``."""

_OPERAND_FOLLOWS = frozenset((0x69, 0x81, 0xC7, 0xF7))
"""``imul``, arithmetic, ``mov`` and ``test``: modrm, perhaps SIB and displacement stand before the number."""

_LONGEST_OPERAND_BYTES = 7
"""From such an opcode to the number."""


class _Opcodes(NamedTuple):
    """By the bytes of an immediate behind the displacement."""

    plain: Mapping[int, FrozenSet[int]]
    behind_0f: Mapping[int, FrozenSet[int]]


_READING, _WRITING = _Opcodes(_READS, _READS_0F), _Opcodes(_WRITES, _WRITES_0F)

_LOWER = 0xFFFFFF
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
    return _iter_relative(image, rva, code, wanted, _READING)


def iter_relative_stores(image: Image, rva: int, code: bytes, wanted: Collection[int]) -> Iterator[Reference]:
    """x64: the same of instructions that write."""
    return _iter_relative(image, rva, code, wanted, _WRITING)


def _iter_relative(
    image: Image, rva: int, code: bytes, wanted: Collection[int], opcodes: _Opcodes
) -> Iterator[Reference]:
    variables: Dict[int, List[Tuple[int, int]]] = {}
    for immediate_bytes in _READS:
        for variable in wanted:
            variables.setdefault(variable - immediate_bytes, []).append((variable, immediate_bytes))
    read_displacement = struct.Struct("<i").unpack_from
    for match in re.finditer(rb"M(?=...[MF])", code.translate(_fold_relative(image.size)), re.DOTALL):
        (displacement,) = read_displacement(code, match.end())
        target = rva + match.end() + _DISPLACEMENT_BYTES + displacement
        for variable, immediate_bytes in variables.get(target, ()):
            start = _find_start(code, match.start() - 1, (immediate_bytes,), opcodes, has_rex=True)
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


def iter_absolute_stores(image: Image, rva: int, code: bytes, wanted: Collection[int]) -> Iterator[Reference]:
    """x86: the four bytes of the address, as the displacement of an instruction that writes."""
    for variable in wanted:
        address = (image.module.base + variable & 0xFFFFFFFF).to_bytes(4, "little")
        offset = code.find(address)
        while offset >= 0:
            before = code[offset - 1] if offset else 0
            start = offset - 1 if before in (0xA2, 0xA3) else None  # mov of the accumulator
            if before & 0xC7 == 0x05:
                start = _find_start(code, offset - 2, tuple(_WRITES), _WRITING, has_rex=False)
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


def _may_be_operand(code: bytes, start: int) -> bool:
    """Whether an instruction may have the four bytes at ``start`` as its number, or as the upper half of that."""
    if start < 1:
        return False
    return (
        code[start - 1] in _NUMBER_FOLLOWS
        or not _OPERAND_FOLLOWS.isdisjoint(code[max(start - _LONGEST_OPERAND_BYTES, 0) : start - 1])
        or (start > TAG_BYTES and code[start - TAG_BYTES - 1] & 0xF8 == 0xB8)
    )


class IntelNumbers:
    """Whatever bytes of x86 and x64 code may be operands; of what looks like a tag, what stands behind an opcode."""

    def __init__(self, code: bytes, bases: Collection[int]) -> None:
        self._code = code
        self._bases = frozenset(bases)

    @classmethod
    def read(cls, code: bytes) -> IntelNumbers:
        """Those of a function."""
        tags = (
            code[start : start + TAG_BYTES]
            for match in _TAGS.finditer(code)
            for start in range(match.start(), match.end() - TAG_BYTES + 1)
            if _may_be_operand(code, start)
        )
        return cls(code, [int.from_bytes(tag, "little") & TAG_MASK for tag in tags])

    @classmethod
    def parse(cls, packed: bytes) -> IntelNumbers:
        """What ``packed`` is of; ValueError if it is cut short."""
        (count,) = _COUNT.unpack(packed[: _COUNT.size].ljust(_COUNT.size, b"\xff"))
        end = _COUNT.size + TAG_BYTES * count
        if len(packed) < end:
            raise ValueError(f"{count_things(len(packed), 'byte')} for {count_things(count, 'number')}")
        return cls(packed[end:], [base for (base,) in _BASE.iter_unpack(packed[_COUNT.size : end])])

    @property
    def packed(self) -> bytes:
        """All that is looked at, to be kept."""
        return _COUNT.pack(len(self._bases)) + b"".join(map(_BASE.pack, sorted(self._bases))) + self._code

    def can_make(self, number: int) -> bool:
        """By a shift, by a change of one character, or by the difference to another tag, which must be there, too.

        Of a difference the lower three bytes are looked for: the last one depends on PROTECTED_POOL.
        """
        code = self._code
        return self._holds_shifted(number) or any(
            base ^ number in _ONE_CHARACTER
            or (number - base & _LOWER).to_bytes(3, "little") in code
            or ((number ^ base) & _LOWER).to_bytes(3, "little") in code
            for base in self._bases
        )

    def _holds_shifted(self, number: int) -> bool:
        zero_bits = (number & -number).bit_length() - 1
        shifted = (tag >> max(zero_bits, 0) for tag in (number, number | PROTECTED_POOL))
        return any(tag.to_bytes(TAG_BYTES, "little") in self._code for tag in shifted)
