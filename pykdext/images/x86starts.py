"""Where functions begin in x86 images, of which no table tells: by calls, addresses, exports, filling and prologues."""

from __future__ import annotations

import bisect
import itertools
import re
import struct
from typing import Dict, Iterator, List, Pattern, Sequence, Tuple

from pykdext.images.exports import read_exports
from pykdext.images.image import Image
from pykdext.images.intelcode import (
    CALL,
    LONG_JUMP,
    TAIL_JUMP,
    IntelCode,
    Pieces,
    filler_bytes,
    iter_filled_starts,
    iter_jumps,
    iter_targets,
    read_code,
)

MAX_STARTS = 1 << 19
"""Of one image; the largest x86 kernels have about 20,000 functions."""

MAX_ARMS = 1024
"""Of one switch."""

_PROLOGUE_BEHIND_RETURN = re.compile(
    rb"(?:\xc3|\xc2.\x00)(?=\x6a.\x68....\xe8"
    rb"|(?:\x8b\xff)?\x55(?:\x8b\xec|\x89\xe5)"
    rb"|[\x53\x55-\x57]{2,4}\x8b[\x44\x4c\x54\x5c\x6c\x74\x7c]\x24)",  # push ...; mov of a parameter
    re.DOTALL,
)
"""A prologue right behind a return: of a function that perhaps nothing calls."""

_TABLE_JUMP = re.compile(
    rb"(?:\xff\x24[\x85\x8d\x95\x9d\xad\xb5\xbd](?=(.{4}))"  # jmp [4 * register + table]
    rb"|\x8b[\x04\x0c\x14\x1c\x2c\x34\x3c][\x85\x8d\x95\x9d\xad\xb5\xbd](?=(.{4})\x3e?\xff[\xe0-\xe7]))",
    re.DOTALL,
)
_ARM_REACH_BYTES = 1 << 15

_COMPARISON = re.compile(rb"\x83[\xf8-\xff](.)|(?:\x3d|\x81[\xf8-\xff])(.{4})", re.DOTALL)  # cmp register, number
_COMPARISON_REACH_BYTES = 24

MAX_SCOPES = 64
"""``__try`` blocks of one function."""

_OUTERMOST = (0xFFFFFFFE, 0xFFFFFFFF)

_LONGEST_STORE, _STORE_OPCODES = 6, (2, 3, 4, 6)
"""Bytes of a store up to its number, and where its opcode can stand before that."""


def find_x86_starts(image: Image) -> List[int]:
    """Where functions seem to begin in an x86 image: RVAs, ascending."""
    base = image.module.base
    code = IntelCode(read_code(image), range(base, base + image.size))
    starts = {rva + filler_bytes(piece) for rva, piece in code.pieces}
    starts.update(rva for rva in set(iter_targets(code.pieces, CALL)) if code.may_begin(rva))
    starts.update(rva for rva in (image.entry_rva, *read_exports(image).rvas.values()) if rva and code.holds(rva))
    arms = set(_iter_switch_arms(image, code)) - starts
    seeming = {rva for rva in _iter_pointers(image, code.pieces) if code.begins_clearly(rva)}
    seeming.update(rva for rva in _iter_taken(image, code.pieces) if code.follows_return(rva))
    seeming.update(rva for rva in _iter_kept(image, code.pieces) if code.follows_end_and_filling(rva))
    seeming.update(
        rva + match.end()
        for rva, piece in code.pieces
        for match in _PROLOGUE_BEHIND_RETURN.finditer(piece)
        if not code.is_jumped_to(piece, match.end())
    )
    starts |= seeming - arms
    starts.update(set(iter_filled_starts(code, starts)) - arms)
    starts.update(set(_iter_tail_jumped(code, sorted(starts))) - arms)
    return sorted(starts)[:MAX_STARTS]


def is_clear_start(pieces: Pieces, rva: int) -> bool:
    """Whether a function surely begins there, by what compilers let functions begin with.

    What stands before does not tell: numbers have the bytes of breakpoints and returns, and the arms of conditions and
    loops stand behind jumps, and filling, too.
    """
    code = IntelCode(pieces)
    return code.has_prologue(rva) or code.makes_frame(rva)


def _iter_tail_jumped(code: IntelCode, known: Sequence[int]) -> Iterator[int]:
    """Places behind an end to which only other functions jump: it is their last call. ``known``: sorted.

    A jump of the function around the place would make it the target of a loop or a condition.
    """
    sources: Dict[int, List[int]] = {}
    for target, source in itertools.chain(iter_jumps(code.pieces, TAIL_JUMP), code.iter_near_jumps()):
        sources.setdefault(target, []).append(bisect.bisect_right(known, source))
    conditions = set(iter_targets(code.pieces, LONG_JUMP))
    for target, functions in sources.items():
        function = bisect.bisect_right(known, target)
        if function in functions or target in conditions or known[function - 1 : function] == [target]:
            continue
        if code.follows_end_and_filling(target) and not code.has_condition_to(target):
            yield target


def _iter_switch_arms(image: Image, code: IntelCode) -> Iterator[int]:
    """Where the jumps through tables of addresses lead: ``jmp [table + 4 * index]``, or a load of that and a jump."""
    tables: Dict[int, Tuple[int, int]] = {}
    for rva, piece in code.pieces:
        for match in _TABLE_JUMP.finditer(piece):
            table = int.from_bytes(match.group(1) or match.group(2), "little") - image.module.base
            tables.setdefault(table, (rva + match.start(), _count_arms(piece, match.start())))
    for table, (jump, arms) in tables.items():
        for number in range(arms):
            rva = table + 4 * number
            raw = image.read(rva, 4) if 0 <= rva < image.size and (number == 0 or rva not in tables) else None
            arm = int.from_bytes(raw, "little") - image.module.base if raw is not None else -1
            if abs(arm - jump) > _ARM_REACH_BYTES or not code.holds(arm):
                break
            yield arm


def _count_arms(code: bytes, jump: int) -> int:
    """The most entries that the table of a jump has, by the comparison with its last one before it."""
    before = code[max(jump - _COMPARISON_REACH_BYTES, 0) : jump]
    last = [int.from_bytes(match.group(1) or match.group(2), "little") for match in _COMPARISON.finditer(before)]
    return min(last[-1] + 1 if last else MAX_ARMS, MAX_ARMS)


def _iter_kept(image: Image, code: Pieces) -> Iterator[int]:
    """The addresses of code that data hold (aligned), but those of exception handlers, which are parts of functions."""
    if not code:
        return
    base, first, last = image.module.base, code[0][0], code[-1][0] + len(code[-1][1])
    addresses = range(base + first, base + last)
    for section in image.sections:
        if not (section.holds_data and section.initialised) or image.is_resource(section):
            continue
        for rva, data in image.iter_present(section):
            aligned = data[-rva % 4 :]
            words = struct.unpack(f"<{len(aligned) // 4}I", aligned[: len(aligned) & -4])
            for index, word in enumerate(words):
                if word in addresses and not _is_in_scope(words, index, addresses):
                    yield word - base


def _is_in_scope(words: Sequence[int], index: int, addresses: range) -> bool:
    """Whether the address there is a filter or handler in the table of a function's ``__try`` blocks.

    It has three words for each block: the block around it (the outermost have none), filter or zero, handler.
    """
    for start in (index - 2, index - 1):
        for at in range(start, max(start - 3 * MAX_SCOPES, -1), -3):
            around, condition, handler = (*words[at : at + 3], 0, 0)[:3]
            if handler not in addresses or (condition and condition not in addresses):
                break
            if around in _OUTERMOST:
                return True
            if around >= MAX_SCOPES:
                break
    return False


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
