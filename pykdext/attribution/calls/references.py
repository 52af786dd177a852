"""Instructions that read variables of an image, or take their addresses: how code gets at a tag that stands in data.

x64 addresses relative to the next instruction, x86 by the whole address, ARM64 by a page (``adrp``) and an offset in a
later instruction (Intel's and Arm's manuals). Code is not decoded from its start: the bytes of an operand tell the
variable, those before it whether an instruction that reads may end there. The last byte of the instruction before may
be taken for a prefix of this one.
"""

from __future__ import annotations

import re
import struct
from typing import Collection, Dict, FrozenSet, Iterator, List, Mapping, NamedTuple, Optional, Set, Tuple

from pykdext.images.image import Image
from pykdext.model import Machine

MAX_REFERENCES = 256
"""Instructions told for one variable."""

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

_ADRP_FOLD = bytes(0x41 if byte & 0x9F == 0x90 else 0x2E for byte in range(256))
_ADRP_REACH_INSTRUCTIONS = 64


def find_references(image: Image, rvas: Collection[int]) -> Mapping[int, Tuple[int, ...]]:
    """The RVAs of instructions that read what is at each of ``rvas`` or take its address, ascending.

    For ARM64 it is the instruction with the offset. At most ``MAX_REFERENCES`` are told for one variable; a variable
    without any is left out.
    """
    found: Dict[int, Set[int]] = {}
    wanted = frozenset(rvas)
    for section in image.sections:
        for rva, code in image.iter_present(section) if section.executable and wanted else ():
            for reference in _iter_references(image, rva, code, wanted):
                places = found.setdefault(reference.variable, set())
                if len(places) < MAX_REFERENCES:
                    places.add(reference.rva)
    return {variable: tuple(sorted(places)) for variable, places in found.items()}


class _Reference(NamedTuple):
    variable: int
    rva: int


def _iter_references(image: Image, rva: int, code: bytes, wanted: Collection[int]) -> Iterator[_Reference]:
    """The references in a piece of code at ``rva``."""
    if image.machine is Machine.X64:
        return _iter_relative(image.size, rva, code, wanted)
    if image.machine is Machine.X86:
        return _iter_absolute(image.module.base, rva, code, wanted)
    return _iter_paged(rva, code, wanted)


def _iter_relative(image_bytes: int, rva: int, code: bytes, wanted: Collection[int]) -> Iterator[_Reference]:
    """x64: the operand [rip+disp32] is relative to the end of the instruction, perhaps behind an immediate."""
    variables: Dict[int, List[Tuple[int, int]]] = {}
    for immediate_bytes in _READS:
        for variable in wanted:
            variables.setdefault(variable - immediate_bytes, []).append((variable, immediate_bytes))
    read_displacement = struct.Struct("<i").unpack_from
    for match in re.finditer(rb"M(?=...[MF])", code.translate(_fold_relative(image_bytes)), re.DOTALL):
        (displacement,) = read_displacement(code, match.end())
        target = rva + match.end() + _DISPLACEMENT_BYTES + displacement
        for variable, immediate_bytes in variables.get(target, ()):
            start = _find_start(code, match.start() - 1, (immediate_bytes,), has_rex=True)
            if start is not None:
                yield _Reference(variable, rva + start)


def _fold_relative(image_bytes: int) -> bytes:
    """Classes of bytes: M the modrm of [rip+disp32], F the last byte of a displacement within the image, or others."""
    far = image_bytes >> 24
    is_far = [not far < byte < 0xFF - far for byte in range(256)]
    return bytes(0x4D if byte & 0xC7 == 0x05 else 0x46 if is_far[byte] else 0x2E for byte in range(256))


def _iter_absolute(base: int, rva: int, code: bytes, wanted: Collection[int]) -> Iterator[_Reference]:
    """x86: the four bytes of the address, as a displacement or an immediate."""
    for variable in wanted:
        address = (base + variable & 0xFFFFFFFF).to_bytes(4, "little")
        offset = code.find(address)
        while offset >= 0:
            start = _find_absolute_start(code, offset)
            if start is not None:
                yield _Reference(variable, rva + start)
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


def _iter_paged(rva: int, code: bytes, wanted: Collection[int]) -> Iterator[_Reference]:
    """ARM64: ``adrp`` of a page, then ``add`` or a load with the offset in it."""
    pages = {variable & ~0xFFF for variable in wanted}
    for match in re.finditer(b"A", code.translate(_ADRP_FOLD)):
        offset = match.end() - 4
        if offset >= 0 and (rva + offset) % 4 == 0:
            word = int.from_bytes(code[offset : offset + 4], "little")
            steps = word >> 3 & 0x1FFFFC | word >> 29 & 3
            page = (rva + offset & ~0xFFF) + ((steps ^ 0x100000) - 0x100000 << 12)
            if page in pages:
                for place, address in _iter_uses(code, offset + 4, word & 0x1F, page):
                    if address in wanted:
                        yield _Reference(address, rva + place)


def _iter_uses(code: bytes, offset: int, register: int, page: int) -> Iterator[Tuple[int, int]]:
    """The instructions from ``offset`` on that add to the page in ``register`` or load from it, with the address.

    Addresses that ``add`` makes are followed; a register that is loaded, or gets another page, is not an address.
    """
    addresses = {register: page}
    count = min(_ADRP_REACH_INSTRUCTIONS, (len(code) - offset) // 4)
    for number, word in enumerate(struct.unpack_from(f"<{count}I", code, offset)):
        base, target = word >> 5 & 0x1F, word & 0x1F
        if word & 0xFFC00000 == 0x91000000 and base in addresses:  # add x, base, #imm12
            addresses[target] = addresses[base] + (word >> 10 & 0xFFF)
            yield offset + 4 * number, addresses[target]
            continue
        is_load, is_vector, scale = _decode_load(word)
        if is_load and base in addresses:
            yield offset + 4 * number, addresses[base] + ((word >> 10 & 0xFFF) << scale)
        if (is_load and not is_vector) or word & 0x9F000000 == 0x90000000:
            addresses.pop(target, None)


def _decode_load(word: int) -> Tuple[bool, bool, int]:
    """Whether an instruction loads from a base and an offset, into a vector register, and the offset's scale."""
    if word & 0x3B000000 != 0x39000000:
        return False, False, 0
    size, is_vector, operation = word >> 30, bool(word & 0x04000000), word >> 22 & 3
    if is_vector:
        return bool(operation & 1), True, 4 if operation & 2 else size
    return operation != 0, False, size
