"""Where functions begin that the unwind tables of x64 and ARM64 leave out, as they need no unwinding: leaves.

Compilers refer to a function by a call or by its address, and align it. The encodings are those of Intel's and Arm's
manuals.
"""

from __future__ import annotations

import bisect
import re
import struct
from typing import List, Optional, Sequence, Tuple

from pykdext.images.image import Image
from pykdext.images.intelcode import (
    BREAKPOINT,
    CALL,
    LOAD_ADDRESS,
    TAIL_JUMP,
    IntelCode,
    Pieces,
    filler_bytes,
    is_behind_an_end,
    iter_filled_starts,
    iter_targets,
)

_ARM64_FILLER = frozenset({0, 0xD503201F, 0xD43E0000})  # zeros, nop, brk 0xf000
_ARM64_RETURNS = frozenset({0xD65F03C0, 0xD65F0BFF, 0xD65F0FFF})  # ret, retaa, retab
_ARM64_JUMP = 0x05  # b: the upper six bits
_ARM64_CALL_BYTE = re.compile(rb"[\x94-\x97]")  # the last one of bl
_TABLE_REACH = 6
"""Instructions before a jump to a register among which the one is that makes the address of a jump table's arm."""


def find_call_targets(pieces: Pieces) -> List[int]:
    """What x64 code seems to call directly: RVAs, ascending."""
    return sorted(set(iter_targets(pieces, CALL)))


def find_jumps(pieces: Pieces) -> List[Tuple[int, int]]:
    """What x64 code seems to jump to over a distance that may lead to another function: target and place, ascending."""
    starts = [rva for rva, _ in pieces]
    found: List[Tuple[int, int]] = []
    for rva, code in pieces:
        for match in TAIL_JUMP.finditer(code):
            target = rva + match.end() + 4 + int.from_bytes(match.group(1), "little", signed=True)
            index = bisect.bisect_right(starts, target) - 1
            if index >= 0 and target < pieces[index][0] + len(pieces[index][1]):
                found.append((target, rva + match.start()))
    return sorted(found)


def find_pointed(image: Image, pieces: Pieces) -> List[int]:
    """To which RVAs pointers in data lead, and of which x64 code takes the address, ascending.

    The pointers of an image have their upper half in common.
    """
    base = image.module.base
    pointed = set(iter_targets(pieces, LOAD_ADDRESS))
    upper = base.to_bytes(8, "little")[4:]
    for section in image.sections:
        if not section.holds_data or not section.initialised or image.is_resource(section):
            continue
        for rva, data in image.iter_present(section):
            at = data.find(upper, 4)
            while at >= 0:
                if (rva + at) % 8 == 4:
                    pointed.add(int.from_bytes(data[at - 4 : at + 4], "little") - base)
                at = data.find(upper, at + 1)
    return sorted(target for target in pointed if 0 < target < image.size)


def find_x64_leaves(
    code: bytes,
    rva: int,
    call_targets: Sequence[int],
    jumps: Sequence[Tuple[int, int]] = (),
    pointed: Sequence[int] = (),
) -> List[int]:
    """Where functions begin in x64 code at ``rva`` that no unwind table tells of; the first behind its filling.

    ``jumps`` are those of :func:`find_jumps`: one from elsewhere to behind an end is the last call of a function.
    ``pointed`` are those of :func:`find_pointed`: behind an end such a place is a function, too.
    """
    gap = IntelCode([(rva, code)])
    called = call_targets[bisect.bisect_left(call_targets, rva) : bisect.bisect_left(call_targets, rva + len(code))]
    filled = rva + filler_bytes(code)
    first = next((target for target in called if target < filled and code[target - rva] != BREAKPOINT), filled)
    called = [target for target in called if target > first]
    starts = {first, *(target for target in called if gap.may_begin(target))}
    end = rva + len(code)
    for target, place in jumps[bisect.bisect_left(jumps, (first + 1, 0)) : bisect.bisect_left(jumps, (end, 0))]:
        if not rva <= place < end and gap.may_begin(target):
            starts.add(target)
    addresses = pointed[bisect.bisect(pointed, first) : bisect.bisect_left(pointed, end)]
    starts.update(target for target in addresses if is_behind_an_end(code, target - rva))
    starts.update(start for start in iter_filled_starts(gap, starts) if start > first)
    return sorted(starts)


def find_arm64_starts(code: bytes, rva: int, called: Sequence[int] = ()) -> List[int]:
    """Where functions begin in ARM64 code at ``rva`` that is known to begin with one; those that are ``called``, too.

    A function ends with the return or jump that no branch before it passes over; a jump to a register may lead on to
    the arms of a switch.
    """
    starts: List[int] = []
    reached = begin = -1
    known = frozenset(called)
    words = struct.unpack_from(f"<{len(code) // 4}I", code)
    for index, word in enumerate(words):
        place = rva + 4 * index
        if begin < 0:
            if word in _ARM64_FILLER and place not in known:
                continue
            begin = reached = place
            starts.append(place)
        target = _arm64_branch_target(word, place)
        if target is not None and begin <= target < rva + len(code):
            reached = max(reached, target)
        is_end = word in _ARM64_RETURNS or word >> 26 == _ARM64_JUMP
        if place >= reached and (is_end or _leaves_by_register(words, index)):
            begin = -1
    return sorted(known.union(starts))


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
