"""Where functions begin that no unwind table tells of: all of x86, and the leaves of x64 and ARM64.

Compilers fill the space between functions with breakpoints or with instructions that do nothing, align what follows,
and refer to a function by a call, by its address, or by an export. The encodings are those of Intel's and Arm's
manuals; the prologues those that MSVC, clang and gcc give to x86 functions with a frame.
"""

from __future__ import annotations

import bisect
import itertools
import re
import struct
from typing import Container, Dict, Iterator, List, Optional, Pattern, Sequence, Tuple

from pykdext.images.exports import read_exports
from pykdext.images.image import Image

MAX_STARTS = 1 << 19
"""Of one image; the largest x86 kernels have about 20,000 functions."""

Pieces = Sequence[Tuple[int, bytes]]
"""Code in memory: ``(rva, bytes)``, ascending, disjoint."""

_ALIGNMENT = 16

_FILLER = re.compile(
    rb"(?:\xcc"
    rb"|\x66{0,10}\x2e?\x0f\x1f(?:\x00|\x40\x00|\x44\x00\x00|\x80\x00{4}|\x84\x00{5})"  # nop of 3 to 15 bytes
    rb"|\x66{0,2}\x90"
    rb"|\x8d(?:\x76\x00|\x49\x00|\x74\x26\x00|\x64\x24\x00|\xb6\x00{4}|\xb4\x26\x00{4}|\xa4\x24\x00{4})"  # lea r, [r]
    rb")+"
)

_ENDS = re.compile(
    rb"(?:\xc3|\xc2..|\xe9....|\xeb.|\xff\x25....|\xff[\xe0-\xe7]|\x0f\x0b)\Z",  # ret, ret n, jmp, ud2
    re.DOTALL,
)
_LONGEST_END = 6
_RETURN = re.compile(rb"\xc2.\x00", re.DOTALL)

_PROLOGUE = re.compile(
    rb"(?:\x8b\xff)?\x55(?:\x8b\xec|\x89\xe5)"  # mov edi, edi; push ebp; mov ebp, esp
    rb"|\x6a.\x68....\xe8"  # push size; push table; call of the compiler's exception prologue
    rb"|[\x53\x55-\x57]{2,4}\x8b",  # push of registers that are kept; mov
    re.DOTALL,
)
_PROLOGUE_BEHIND_RETURN = re.compile(
    rb"(?:\xc3|\xc2.\x00)(?=\x6a.\x68....\xe8"
    rb"|(?:\x8b\xff)?\x55(?:\x8b\xec|\x89\xe5)"
    rb"|[\x53\x55-\x57]{2,4}\x8b[\x44\x4c\x54\x5c\x6c\x74\x7c]\x24)",  # push ...; mov of a parameter
    re.DOTALL,
)
"""A prologue right behind a return: of a function that perhaps nothing calls."""

_BREAKPOINT = 0xCC
_CALL = re.compile(rb"\xe8(?=(.{4}))", re.DOTALL)
_TAIL_JUMP = re.compile(rb"\xe9(?=(.{4}))", re.DOTALL)
_LONG_JUMP = re.compile(rb"\x0f[\x80-\x8f](?=(.{4}))", re.DOTALL)
_SHORT_JUMP = re.compile(rb"[\x70-\x7f\xeb](?=([^\x00]))", re.DOTALL)  # none leads to the next instruction
_NEAR_JUMP = re.compile(rb"\xeb(?=(.))", re.DOTALL)
_SHORT_CONDITION = re.compile(rb"[\x70-\x7f](?=([^\x00]))", re.DOTALL)
_SHORT_REACH = 130

_TABLE_JUMP = re.compile(
    rb"(?:\xff\x24[\x85\x8d\x95\x9d\xad\xb5\xbd](?=(.{4}))"  # jmp [4 * register + table]
    rb"|\x8b[\x04\x0c\x14\x1c\x2c\x34\x3c][\x85\x8d\x95\x9d\xad\xb5\xbd](?=(.{4})\x3e?\xff[\xe0-\xe7]))",
    re.DOTALL,
)
MAX_ARMS = 1024
_ARM_REACH_BYTES = 1 << 15

_LONGEST_STORE, _STORE_OPCODES = 6, (2, 3, 4, 6)
"""Bytes of a store up to its number, and where its opcode can stand before that."""

_ARM64_FILLER = frozenset({0, 0xD503201F, 0xD43E0000})  # zeros, nop, brk 0xf000
_ARM64_RETURNS = frozenset({0xD65F03C0, 0xD65F0BFF, 0xD65F0FFF})  # ret, retaa, retab
_ARM64_JUMP = 0x05  # b: the upper six bits
_ARM64_CALL_BYTE = re.compile(rb"[\x94-\x97]")  # the last one of bl
_TABLE_REACH = 6
"""Instructions before a jump to a register among which the one is that makes the address of a jump table's arm."""


def read_code(image: Image) -> Pieces:
    """The executable sections, as far as they are in memory."""
    return [piece for section in image.sections if section.executable for piece in image.iter_present(section)]


def find_x86_starts(image: Image) -> List[int]:
    """Where functions seem to begin in an x86 image: RVAs, ascending."""
    base = image.module.base
    code = _Code(read_code(image), range(base, base + image.size))
    starts = {rva + _filler_bytes(piece) for rva, piece in code.pieces}
    starts.update(rva for rva in set(_iter_targets(code.pieces, _CALL)) if code.may_begin(rva))
    starts.update(rva for rva in (image.entry_rva, *read_exports(image).rvas.values()) if rva and code.holds(rva))
    arms = set(_iter_switch_arms(image, code)) - starts
    seeming = {rva for rva in _iter_pointers(image, code.pieces) if code.begins_clearly(rva)}
    seeming.update(rva for rva in _iter_taken(image, code.pieces) if code.follows_return(rva))
    seeming.update(
        rva + match.end()
        for rva, piece in code.pieces
        for match in _PROLOGUE_BEHIND_RETURN.finditer(piece)
        if not code.is_jumped_to(piece, match.end())
    )
    starts |= seeming - arms
    starts.update(set(_iter_filled_starts(code, starts)) - arms)
    starts.update(set(_iter_tail_jumped(code, sorted(starts))) - arms)
    return sorted(starts)[:MAX_STARTS]


def find_call_targets(pieces: Pieces) -> List[int]:
    """What x64 code seems to call directly: RVAs, ascending."""
    return sorted(set(_iter_targets(pieces, _CALL)))


def find_jumps(pieces: Pieces) -> List[Tuple[int, int]]:
    """What x64 code seems to jump to over a distance that may lead to another function: target and place, ascending."""
    starts = [rva for rva, _ in pieces]
    found: List[Tuple[int, int]] = []
    for rva, code in pieces:
        for match in _TAIL_JUMP.finditer(code):
            target = rva + match.end() + 4 + int.from_bytes(match.group(1), "little", signed=True)
            index = bisect.bisect_right(starts, target) - 1
            if index >= 0 and target < pieces[index][0] + len(pieces[index][1]):
                found.append((target, rva + match.start()))
    return sorted(found)


def find_x64_leaves(
    code: bytes, rva: int, call_targets: Sequence[int], jumps: Sequence[Tuple[int, int]] = ()
) -> List[int]:
    """Where functions begin in x64 code at ``rva`` that no unwind table tells of; the first behind its filling.

    ``jumps`` are those of :func:`find_jumps`: one from elsewhere to behind an end is the last call of a function.
    """
    gap = _Code([(rva, code)])
    first = rva + _filler_bytes(code)
    called = call_targets[bisect.bisect(call_targets, first) : bisect.bisect_left(call_targets, rva + len(code))]
    starts = {first, *(target for target in called if gap.may_begin(target))}
    end = rva + len(code)
    for target, place in jumps[bisect.bisect_left(jumps, (first + 1, 0)) : bisect.bisect_left(jumps, (end, 0))]:
        if not rva <= place < end and gap.may_begin(target):
            starts.add(target)
    starts.update(start for start in _iter_filled_starts(gap, starts) if start > first)
    return sorted(starts)


def find_arm64_starts(code: bytes, rva: int) -> List[int]:
    """Where functions begin in ARM64 code at ``rva`` that is known to begin with one.

    A function ends with the return or jump that no branch before it passes over; a jump to a register may lead on to
    the arms of a switch.
    """
    starts: List[int] = []
    reached = begin = -1
    words = struct.unpack_from(f"<{len(code) // 4}I", code)
    for index, word in enumerate(words):
        place = rva + 4 * index
        if begin < 0:
            if word in _ARM64_FILLER:
                continue
            begin = reached = place
            starts.append(place)
        target = _arm64_branch_target(word, place)
        if target is not None and begin <= target < rva + len(code):
            reached = max(reached, target)
        is_end = word in _ARM64_RETURNS or word >> 26 == _ARM64_JUMP
        if place >= reached and (is_end or _leaves_by_register(words, index)):
            begin = -1
    return starts


def find_arm64_call_targets(pieces: Pieces) -> List[int]:
    """What ARM64 code calls directly (``bl``): RVAs, ascending."""
    targets = set()
    for rva, code in pieces:
        for match in _ARM64_CALL_BYTE.finditer(code):
            offset = match.end() - 4
            if offset >= 0 and (rva + offset) % 4 == 0:
                steps = int.from_bytes(code[offset : offset + 4], "little") & 0x3FFFFFF
                targets.add(rva + offset + 4 * (steps - (steps >> 25 << 26)))
    return sorted(targets)


def _leaves_by_register(words: Sequence[int], index: int) -> bool:
    """Whether ``br`` stands there, of a register that no sum of a base and a table's entry was put into before."""
    word = words[index]
    if word & 0xFFFFFC1F != 0xD61F0000:
        return False
    register = word >> 5 & 31
    for before in reversed(words[max(index - _TABLE_REACH, 0) : index]):
        if before & 31 == register:
            return before & 0x1F000000 != 0x0B000000  # add of two registers
    return True


def _arm64_branch_target(word: int, place: int) -> Optional[int]:
    """Where a direct branch (not a call) goes; None for every other instruction."""
    if word >> 26 == _ARM64_JUMP:
        field, bits = word, 26
    elif word >> 24 in (0x54, 0x34, 0x35, 0xB4, 0xB5):  # b.cond, cbz, cbnz
        field, bits = word >> 5, 19
    elif word >> 24 & 0x7E == 0x36:  # tbz, tbnz
        field, bits = word >> 5, 14
    else:
        return None
    field &= (1 << bits) - 1
    return place + 4 * (field - (field >> (bits - 1) << bits))


class _Code:
    """Code with questions about the bytes around a place. ``addresses``: those that operands of x86 code may have."""

    def __init__(self, pieces: Pieces, addresses: range = range(0)) -> None:
        self.pieces = pieces
        self._starts = [rva for rva, _ in pieces]
        self._addresses = addresses

    def holds(self, rva: int) -> bool:
        """Whether code is in memory at ``rva``."""
        index = bisect.bisect_right(self._starts, rva) - 1
        return index >= 0 and rva < self._starts[index] + len(self.pieces[index][1])

    def may_begin(self, rva: int) -> bool:
        """Whether a function that seems called can begin here: aligned, behind an end or filling, or by its looks."""
        return self.holds(rva) and (rva % _ALIGNMENT == 0 or self._follows_an_end(rva) or self.begins_clearly(rva))

    def begins_clearly(self, rva: int) -> bool:
        """Whether a function begins here even if only some number happens to be this address."""
        if not self.holds(rva):
            return False
        base, piece = self._piece_at(rva)
        offset = rva - base
        return offset == 0 or piece[offset - 1] == _BREAKPOINT or _PROLOGUE.match(piece, offset) is not None

    def follows_return(self, rva: int) -> bool:
        """Whether a return stands right before, and no short jump around leads here."""
        if not self.holds(rva):
            return False
        base, piece = self._piece_at(rva)
        offset = rva - base
        returns = piece[offset - 1 : offset] == b"\xc3" or _RETURN.match(piece[max(offset - 3, 0) : offset]) is not None
        return returns and not self.is_jumped_to(piece, offset)

    def is_jumped_to(self, piece: bytes, offset: int) -> bool:
        """Whether some short jump around ``offset`` leads there, by the bytes that it would have."""
        return self._has_jump(_SHORT_JUMP, piece, offset)

    def has_condition_to(self, rva: int) -> bool:
        """Whether some short conditional jump leads to ``rva``."""
        base, piece = self._piece_at(rva)
        return self._has_jump(_SHORT_CONDITION, piece, rva - base)

    def iter_near_jumps(self) -> Iterator[Tuple[int, int]]:
        """The targets of what seem to be short jumps without a condition, and where these stand."""
        for rva, piece in self.pieces:
            for jump in _NEAR_JUMP.finditer(piece):
                if not self._is_in_address(piece, jump.start()):
                    distance = int.from_bytes(jump.group(1), "little", signed=True)
                    yield rva + jump.end() + 1 + distance, rva + jump.start()

    def follows_end_and_filling(self, rva: int) -> bool:
        """Whether the end of a function stands before ``rva``, and perhaps filling in between."""
        if not self.holds(rva):
            return False
        base, piece = self._piece_at(rva)
        offset = rva - base
        if _is_behind_an_end(piece, offset):
            return True
        starts = range(max(offset - _ALIGNMENT + 1, 0), offset)
        return rva % _ALIGNMENT == 0 and any(
            _is_behind_an_end(piece, start) and _FILLER.fullmatch(piece, start, offset) for start in starts
        )

    def _has_jump(self, jumps: Pattern[bytes], piece: bytes, offset: int) -> bool:
        """What is a part of an address is none: the addresses of an image have the same upper bytes."""
        return any(
            jump.end() + 1 + int.from_bytes(jump.group(1), "little", signed=True) == offset
            and not self._is_in_address(piece, jump.start())
            for jump in jumps.finditer(piece, max(offset - _SHORT_REACH, 0), offset + _SHORT_REACH)
        )

    def _piece_at(self, rva: int) -> Tuple[int, bytes]:
        return self.pieces[bisect.bisect_right(self._starts, rva) - 1]

    def _is_in_address(self, piece: bytes, offset: int) -> bool:
        """Whether one of the two bytes at ``offset`` is in an address, by the four bytes that would be one."""
        starts = range(max(offset - 3, 0), offset + 2) if self._addresses else ()
        return any(int.from_bytes(piece[start : start + 4], "little") in self._addresses for start in starts)

    def _follows_an_end(self, rva: int) -> bool:
        base, piece = self._piece_at(rva)
        return _is_behind_an_end(piece, rva - base)


def _filler_bytes(code: bytes) -> int:
    """How many bytes of filling ``code`` begins with."""
    filler = _FILLER.match(code)
    return filler.end() if filler else 0


def _iter_filled_starts(code: _Code, known: Container[int]) -> Iterator[int]:
    """What follows filling: breakpoints up to an aligned place, or the end of a function and any filling.

    A lone breakpoint needs such an end before it: the byte is common in operands. Compilers align the targets of jumps
    too: what is jumped to is no function, unless it is ``known`` to be one.
    """
    jumped_to = set(_iter_targets(code.pieces, _LONG_JUMP))
    for rva, piece in code.pieces:
        for filler in _FILLER.finditer(piece):
            start, end = filler.span()
            place = rva + end
            if end == len(piece) or place in known or place in jumped_to:
                continue
            if piece[start] == _BREAKPOINT:
                is_run = end - start > 1
                begins = (is_run and place % _ALIGNMENT == 0) or _is_behind_an_end(piece, start)
            else:
                begins = _is_behind_an_end(piece, start) and not code.is_jumped_to(piece, end)
            if begins:
                yield place


def _iter_tail_jumped(code: _Code, known: Sequence[int]) -> Iterator[int]:
    """Places behind an end to which only other functions jump: it is their last call. ``known``: sorted.

    A jump of the function around the place would make it the target of a loop or a condition.
    """
    sources: Dict[int, List[int]] = {}
    for target, source in itertools.chain(_iter_jumps(code.pieces, _TAIL_JUMP), code.iter_near_jumps()):
        sources.setdefault(target, []).append(bisect.bisect_right(known, source))
    conditions = set(_iter_targets(code.pieces, _LONG_JUMP))
    for target, functions in sources.items():
        function = bisect.bisect_right(known, target)
        if function in functions or target in conditions or known[function - 1 : function] == [target]:
            continue
        if code.follows_end_and_filling(target) and not code.has_condition_to(target):
            yield target


def _iter_switch_arms(image: Image, code: _Code) -> Iterator[int]:
    """Where the jumps through tables of addresses lead: ``jmp [table + 4 * index]``, or a load of that and a jump."""
    tables: Dict[int, int] = {}
    for rva, piece in code.pieces:
        for match in _TABLE_JUMP.finditer(piece):
            tables.setdefault(
                int.from_bytes(match.group(1) or match.group(2), "little") - image.module.base, rva + match.start()
            )
    for table, jump in tables.items():
        for number in range(MAX_ARMS):
            rva = table + 4 * number
            raw = image.read(rva, 4) if 0 <= rva < image.size and (number == 0 or rva not in tables) else None
            arm = int.from_bytes(raw, "little") - image.module.base if raw is not None else -1
            if abs(arm - jump) > _ARM_REACH_BYTES or not code.holds(arm):
                break
            yield arm


def _is_behind_an_end(code: bytes, offset: int) -> bool:
    return _ENDS.search(code[max(offset - _LONGEST_END, 0) : offset]) is not None


def _iter_targets(code: Pieces, instruction: Pattern[bytes]) -> Iterator[int]:
    """Where the instructions lead that ``instruction`` finds; its group is their 32-bit displacement."""
    return (target for target, _ in _iter_jumps(code, instruction))


def _iter_jumps(code: Pieces, instruction: Pattern[bytes]) -> Iterator[Tuple[int, int]]:
    """Where the instructions lead that ``instruction`` finds, and where they stand."""
    for rva, piece in code:
        for found in instruction.finditer(piece):
            displacement = found.group(1)
            if displacement != b"\0\0\0\0":  # how position-independent x86 code asks for its own address
                yield rva + found.end() + 4 + int.from_bytes(displacement, "little", signed=True), rva + found.start()


def _iter_pointers(image: Image, code: Pieces) -> Iterator[int]:
    """What data (aligned) and instructions (anywhere) hold that may be an address in code."""
    base = image.module.base
    for section in image.sections:
        if section.holds_data and section.initialised and not image.is_resource(section):
            for rva, data in image.iter_present(section):
                aligned = data[-rva % 4 :]
                yield from (number - base for (number,) in struct.iter_unpack("<I", aligned[: len(aligned) & -4]))
    if code:
        first, last = base + code[0][0], base + code[-1][0] + len(code[-1][1])
        pointer = _pointer_pattern(first, last)
        for _, piece in code:
            yield from (int.from_bytes(match.group(1), "little") - base for match in pointer.finditer(piece))


def _iter_taken(image: Image, code: Pieces) -> Iterator[int]:
    """What instructions take the address of: ``push``, ``mov`` into a register, a store."""
    if not code:
        return
    base = image.module.base
    pointer = _pointer_pattern(base + code[0][0], base + code[-1][0] + len(code[-1][1]))
    for _, piece in code:
        for match in pointer.finditer(piece):
            before = piece[max(match.start(1) - _LONGEST_STORE, 0) : match.start(1)].rjust(_LONGEST_STORE, b"\0")
            if before[-1] == 0x68 or before[-1] & 0xF8 == 0xB8 or 0xC7 in (before[-n] for n in _STORE_OPCODES):
                yield int.from_bytes(match.group(1), "little") - base


def _pointer_pattern(first: int, last: int) -> Pattern[bytes]:
    """Four bytes whose upper two can be those of an address from ``first`` to ``last``."""
    uppers = range(first >> 16, (last >> 16) + 1)
    by_top: Dict[int, List[int]] = {}
    for upper in uppers:
        by_top.setdefault(upper >> 8 & 0xFF, []).append(upper & 0xFF)
    choices = b"|".join(
        b"[\\x%02x-\\x%02x]\\x%02x" % (thirds[0], thirds[-1], top) for top, thirds in sorted(by_top.items())
    )
    return re.compile(b"(?=(.{2}(?:" + choices + b")))", re.DOTALL)
