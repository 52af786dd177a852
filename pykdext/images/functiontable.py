"""The function that holds a place of an image, with all the code that belongs to it.

x64 and ARM64 images say it in their unwind tables; functions that need no unwinding (leaves) lie in the gaps of these.
x86 images say nothing: their functions are found by what refers to them.
"""

from __future__ import annotations

import bisect
from functools import cached_property
from typing import Callable, Dict, List, NamedTuple, Optional, Tuple

from pykdext.images.functionstarts import (
    find_arm64_call_targets,
    find_arm64_starts,
    find_call_targets,
    find_jumps,
    find_pointed,
    find_x64_leaves,
)
from pykdext.images.image import Image
from pykdext.images.intelcode import Pieces, read_code
from pykdext.images.unwindtables import CodeRange, read_unwind_table
from pykdext.images.x86starts import find_x86_starts, is_clear_start
from pykdext.model import Machine, MachineTable

_FILLING = b"\xcc"
_ALIGNMENT = 16


class FunctionBounds(NamedTuple):
    """A function: its entry, its code as ``(start, end)`` RVAs by ascending start, and how that is known.

    ``source`` is ``pdata`` (the image's unwind table says so) or ``flow`` (concluded from padding and references).
    """

    start_rva: int
    ranges: Tuple[Tuple[int, int], ...]
    source: str

    @property
    def size_bytes(self) -> int:
        """Of its code."""
        return sum(end - start for start, end in self.ranges)


class FunctionTable:
    """The functions of one image. All is read at the first question.

    Attributes:
        image: the image.
    """

    def __init__(self, image: Image) -> None:
        self.image = image
        self._gaps: Dict[int, List[int]] = {}

    def find(self, rva: int) -> Optional[FunctionBounds]:
        """The function whose code is at ``rva``; None where there is no code, or it is not in memory."""
        ranges = self._ranges
        index = bisect.bisect_right(self._range_starts, rva) - 1
        if index >= 0 and rva < ranges[index].end:
            start = ranges[index].function_start
            return FunctionBounds(start, self._fragments[start], "pdata")
        gap_start = ranges[index].end if index >= 0 else 0
        gap_end = ranges[index + 1].start if index + 1 < len(ranges) else self.image.size
        return self._find_by_flow(rva, gap_start, gap_end)

    def may_be_within(self, start_rva: int) -> bool:
        """Whether a function is taken to begin there only as the place is aligned and some bytes look like a call."""
        return self.image.machine is Machine.X86 and not is_clear_start(self._code, start_rva)

    @cached_property
    def _ranges(self) -> Tuple[CodeRange, ...]:
        return read_unwind_table(self.image)

    @cached_property
    def _range_starts(self) -> List[int]:
        return [code.start for code in self._ranges]

    @cached_property
    def _fragments(self) -> Dict[int, Tuple[Tuple[int, int], ...]]:
        """All ranges of each function by its start."""
        fragments: Dict[int, List[Tuple[int, int]]] = {}
        for start, end, function_start in self._ranges:
            fragments.setdefault(function_start, []).append((start, end))
        return {function_start: tuple(ranges) for function_start, ranges in fragments.items()}

    @cached_property
    def _code(self) -> Pieces:
        return read_code(self.image)

    @cached_property
    def _x86_starts(self) -> List[int]:
        return find_x86_starts(self.image)

    @cached_property
    def _call_targets(self) -> List[int]:
        return find_call_targets(self._code)

    @cached_property
    def _jumps(self) -> List[Tuple[int, int]]:
        return find_jumps(self._code)

    @cached_property
    def _pointed(self) -> List[int]:
        return find_pointed(self.image, self._code)

    @cached_property
    def _arm64_call_targets(self) -> List[int]:
        return find_arm64_call_targets(self._code)

    def _find_by_flow(self, rva: int, gap_start: int, gap_end: int) -> Optional[FunctionBounds]:
        """The function around ``rva`` in code that the unwind table leaves out, from ``gap_start`` to ``gap_end``."""
        for piece_rva, piece in self._code:
            if piece_rva <= rva < piece_rva + len(piece):
                break
        else:
            return None
        start, end = max(gap_start, piece_rva), min(gap_end, piece_rva + len(piece))
        if start not in self._gaps:
            self._gaps[start] = self._find_starts(piece[start - piece_rva : end - piece_rva], start)
        starts = self._gaps[start]
        index = bisect.bisect_right(starts, rva)
        if index == 0:
            return None
        if index < len(starts):
            end = starts[index]
        else:  # the last one does not have what fills the rest of a section
            last = starts[index - 1]
            end = min(end, last + len(piece[last - piece_rva : end - piece_rva].rstrip(_FILLING)) + _ALIGNMENT)
            if rva >= end:
                return None
        return FunctionBounds(starts[index - 1], ((starts[index - 1], end),), "flow")

    def _find_starts(self, code: bytes, rva: int) -> List[int]:
        """Where functions begin in a gap of the unwind table, ascending."""
        return _FIND_STARTS[self.image.machine](self, code, rva)

    def _find_arm64_starts(self, code: bytes, rva: int) -> List[int]:
        targets = self._arm64_call_targets
        called = targets[bisect.bisect_left(targets, rva) : bisect.bisect_left(targets, rva + len(code))]
        return find_arm64_starts(code, rva, called)

    def _find_x64_starts(self, code: bytes, rva: int) -> List[int]:
        return find_x64_leaves(code, rva, self._call_targets, self._jumps, self._pointed)

    def _find_x86_starts(self, code: bytes, rva: int) -> List[int]:
        starts = self._x86_starts
        return starts[bisect.bisect_left(starts, rva) : bisect.bisect_left(starts, rva + len(code))]


_FIND_STARTS: MachineTable[Callable[[FunctionTable, bytes, int], List[int]]] = MachineTable(
    "functions of images",
    {
        Machine.X64: FunctionTable._find_x64_starts,
        Machine.X86: FunctionTable._find_x86_starts,
        Machine.ARM64: FunctionTable._find_arm64_starts,
    },
)
