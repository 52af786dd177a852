"""Code of Intel processors as bytes: where a function may begin, by its looks and by what stands before it.

Compilers fill the space between functions with breakpoints or with instructions that do nothing, and align what
follows. The encodings are those of Intel's manual; the prologues those that MSVC, clang and gcc give to functions with
a frame.
"""

from __future__ import annotations

import bisect
import re
from typing import Container, Iterator, Match, Pattern, Sequence, Tuple

from pykdext.images.image import Image

Pieces = Sequence[Tuple[int, bytes]]
"""Code in memory: ``(rva, bytes)``, ascending, disjoint."""

ALIGNMENT = 16
"""Of functions, in bytes, where a compiler is not told to save room."""

_FILLER = re.compile(
    rb"(?:\xcc"
    rb"|\x66{0,10}\x2e?\x0f\x1f(?:\x00|\x40\x00|\x44\x00\x00|\x80\x00{4}|\x84\x00{5})"  # nop of 3 to 15 bytes
    rb"|\x66{0,2}\x90"
    rb"|\x8d(?:\x76\x00|\x49\x00|\x74\x26\x00|\x64\x24\x00|\xb6\x00{4}|\xb4\x26\x00{4}|\xa4\x24\x00{4})"  # lea r, [r]
    rb")+"
)

_MOVE_TO_ITSELF = b"\x8b\xff"  # mov edi, edi

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
_FRAME = re.compile(rb"[\x53\x55-\x57]{0,4}(\x83\xec|\x81\xec..\x00\x00)", re.DOTALL)  # push ...; sub esp, n
BREAKPOINT = 0xCC
CALL = re.compile(rb"\xe8(?=(.{4}))", re.DOTALL)
TAIL_JUMP = re.compile(rb"\xe9(?=(.{4}))", re.DOTALL)
LOAD_ADDRESS = re.compile(rb"[\x48\x4c]\x8d[\x05\x0d\x15\x1d\x25\x2d\x35\x3d](?=(.{4}))", re.DOTALL)  # lea r, [rip+n]
LONG_JUMP = re.compile(rb"\x0f[\x80-\x8f](?=(.{4}))", re.DOTALL)
_SHORT_JUMP = re.compile(rb"[\x70-\x7f\xeb](?=([^\x00]))", re.DOTALL)  # none leads to the next instruction
_NEAR_JUMP = re.compile(rb"\xeb(?=(.))", re.DOTALL)
_SHORT_CONDITION = re.compile(rb"[\x70-\x7f](?=([^\x00]))", re.DOTALL)
_SHORT_REACH = 130


def read_code(image: Image) -> Pieces:
    """The executable sections, as far as they are in memory."""
    return [piece for section in image.sections if section.executable for piece in image.iter_present(section)]


class IntelCode:
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
        """Whether a function that seems called can begin here: aligned, behind an end or filling, or by its looks.

        Before it may stand a call that does not return, which nothing tells from others.
        """
        if not self.holds(rva):
            return False
        base, piece = self._piece_at(rva)
        is_like_one = _FRAME.match(piece, rva - base) is not None or self.begins_clearly(rva)
        return is_like_one or rva % ALIGNMENT == 0 or self._follows_an_end(rva)

    def begins_clearly(self, rva: int) -> bool:
        """Whether a function begins here even if only some number happens to be this address."""
        if not self.holds(rva):
            return False
        base, piece = self._piece_at(rva)
        offset = rva - base
        return offset == 0 or piece[offset - 1] == BREAKPOINT or self.has_prologue(rva)

    def has_prologue(self, rva: int) -> bool:
        """Whether what compilers let functions begin with stands there."""
        if not self.holds(rva):
            return False
        base, piece = self._piece_at(rva)
        return _PROLOGUE.match(piece, rva - base) is not None

    def makes_frame(self, rva: int) -> bool:
        """Whether registers are saved there, and room is made on the stack."""
        if not self.holds(rva):
            return False
        base, piece = self._piece_at(rva)
        frame = _FRAME.match(piece, rva - base)
        return frame is not None and frame.start() < frame.start(1)

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
        if is_behind_an_end(piece, offset):
            return True
        starts = range(max(offset - ALIGNMENT + 1, 0), offset)
        return rva % ALIGNMENT == 0 and any(
            is_behind_an_end(piece, start) and _FILLER.fullmatch(piece, start, offset) for start in starts
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
        return is_behind_an_end(piece, rva - base)


def filler_bytes(code: bytes) -> int:
    """How many bytes of filling ``code`` begins with."""
    filler = _FILLER.match(code)
    return filler.end() if filler else 0


def iter_filled_starts(code: IntelCode, known: Container[int]) -> Iterator[int]:
    """What follows filling: breakpoints up to an aligned place, or the end of a function and any filling.

    Filling with a function that is ``known`` is its first instructions.

    A lone breakpoint needs such an end before it: the byte is common in operands. Compilers align the targets of jumps
    too: what is jumped to is no function, unless it is ``known`` to be one.
    """
    jumped_to = set(iter_targets(code.pieces, LONG_JUMP))
    for rva, piece in code.pieces:
        for filler in _FILLER.finditer(piece):
            start, end = filler.span()
            place = rva + end
            if end == len(piece) or place in known or place in jumped_to or _holds_start(filler, rva, known):
                continue
            if piece[start] == BREAKPOINT:
                is_run = end - start > 1
                begins = (is_run and place % ALIGNMENT == 0) or is_behind_an_end(piece, start)
            else:
                end += 2 * piece.startswith(_MOVE_TO_ITSELF, end)  # the last of the filling, or the first of a function
                begins = is_behind_an_end(piece, start) and not code.is_jumped_to(piece, end)
            if begins:
                yield place


def _holds_start(filler: Match[bytes], rva: int, known: Container[int]) -> bool:
    """Whether a function that is ``known`` begins with instructions that do nothing: room to patch it."""
    code, (start, end) = filler.group(), filler.span()
    return any(rva + place in known for place in range(start, end) if code[place - start] != BREAKPOINT)


def is_behind_an_end(code: bytes, offset: int) -> bool:
    """Whether a return, a jump or ``ud2`` stands right before ``offset``, by the bytes that it would have."""
    return _ENDS.search(code[max(offset - _LONGEST_END, 0) : offset]) is not None


def iter_targets(code: Pieces, instruction: Pattern[bytes]) -> Iterator[int]:
    """Where the instructions lead that ``instruction`` finds; its group is their 32-bit displacement."""
    return (target for target, _ in iter_jumps(code, instruction))


def iter_jumps(code: Pieces, instruction: Pattern[bytes]) -> Iterator[Tuple[int, int]]:
    """Where the instructions lead that ``instruction`` finds, and where they stand."""
    for rva, piece in code:
        for found in instruction.finditer(piece):
            displacement = found.group(1)
            if displacement != b"\0\0\0\0":  # how position-independent x86 code asks for its own address
                yield rva + found.end() + 4 + int.from_bytes(displacement, "little", signed=True), rva + found.start()
