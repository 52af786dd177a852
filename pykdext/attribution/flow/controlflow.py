"""The instructions of one function, decoded where direct control flow leads, in an order that is good to follow.

A leader is a place that is jumped to; its trace is what follows on it up to the next leader or the end of the path.
Conditional jumps do not end a trace.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Optional, Set, Tuple

from pykdext.attribution.flow.state import Instruction, InstructionSet, Leads
from pykdext.images.functiontable import FunctionBounds
from pykdext.images.image import Image

MAX_FUNCTION_BYTES = 1 << 20
"""Code of one function that is read."""

MAX_INSTRUCTIONS = 20_000
"""Instructions of one function that are decoded."""


class Trace(NamedTuple):
    """Instructions one after another, each with where it leads; ``next_rva``: the leader that they lead to at the end.

    ``jumped_to``: the leaders that their direct jumps lead to.
    """

    instructions: List[Tuple[Instruction, Leads]]
    next_rva: Optional[int]
    jumped_to: Tuple[int, ...]


class ControlFlow:
    """What is known of a function's control flow; it grows with every place that is found to be jumped to.

    Attributes:
        lost: why a part was not decoded, or None. is_guessing: what is not to be decoded from now on may be data, and
        nothing is lost with it.
    """

    def __init__(self, image: Image, bounds: FunctionBounds, instruction_set: InstructionSet[Any]) -> None:
        self.lost: Optional[str] = None
        self.is_guessing = False
        ranges = _join_adjacent(bounds.ranges)
        self._starts = [start for start, _ in ranges]
        self._ends_of_parts = [end for _, end in ranges]
        self._instruction_set = instruction_set
        self._pieces = _read_code(image, ranges)
        self._decoded: Dict[int, Instruction] = {}
        self._explored: Dict[int, Leads] = {}
        self._leaders: Set[int] = set()
        self._entries: List[int] = []
        self._indirect: Dict[int, Tuple[int, ...]] = {}
        self._traces: Dict[int, Trace] = {}
        self._owners: Dict[int, int] = {}
        self._split_from: Dict[int, int] = {}
        self._order: Dict[int, int] = {}
        self._ends: List[int] = sorted({start for start, _ in bounds.ranges})

    def enter(self, rva: int) -> None:
        """A path begins at ``rva``."""
        self._entries.append(rva)
        self._explore([rva])
        self._number(rva)

    def add_targets(self, leader: int, targets: Tuple[int, ...]) -> int:
        """The trace of ``leader`` ends in a jump to ``targets``; how many leaders got a new order by that."""
        known = self._indirect.get(leader, ())
        new = set(filter(self.holds, targets)).difference(known)
        if not new:
            return 0
        self._indirect[leader] = (*known, *sorted(new))
        self._explore(sorted(new))
        self._order = {}
        for entry in self._entries:
            self._number(entry)
        return len(self._order)

    def trace(self, leader: int) -> Trace:
        """What follows on a place that is jumped to."""
        trace = self._traces.get(leader)
        if trace is None:
            trace = self._traces[leader] = self._read_trace(leader)
            for instruction, _ in trace.instructions:
                self._owners[instruction.rva] = leader
        return trace

    def order(self, leader: int) -> int:
        """Leaders that come before others on the paths have lower numbers; only loops lead back."""
        return self._order.get(leader, len(self._order))

    def split_from(self, leader: int) -> Optional[int]:
        """The leader whose trace went on to ``leader`` before that was known to be one."""
        return self._split_from.get(leader)

    def is_explored(self, rva: int) -> bool:
        """Whether an instruction that control flow reaches begins there."""
        return rva in self._explored

    def explored(self) -> Iterable[int]:
        """Where the instructions begin that control flow reaches."""
        return self._explored

    def holds(self, rva: int) -> bool:
        """Whether it is a place in the function."""
        part = bisect_right(self._starts, rva) - 1
        return part >= 0 and rva < self._ends_of_parts[part]

    def pop_end(self) -> Optional[int]:
        """The lowest place behind the end of a path, or where a part of the function begins, that was not given yet."""
        return heapq.heappop(self._ends) if self._ends else None

    def has_unexplored(self) -> bool:
        """Whether code that control flow does not reach yet stands behind a path or where a part begins."""
        self.is_guessing = True
        found = any(self._has_code_from(end) for end in self._ends)
        self.is_guessing = False
        return found

    def _has_code_from(self, rva: int) -> bool:
        """Whether something else than padding stands there, up to what control flow reaches."""
        while self.holds(rva) and rva not in self._explored:
            instruction = self.decode(rva)
            if instruction is None or not self._instruction_set.is_padding(instruction):
                return True
            rva += instruction.size
        return False

    def decode(self, rva: int) -> Optional[Instruction]:
        """The instruction at ``rva``; None, and noted, where no instruction begins."""
        return self._decoded.get(rva) or next(self._iter_instructions(rva), None)

    def _explore(self, rvas: Iterable[int]) -> None:
        """Decode whatever direct jumps reach from ``rvas``. Where a path comes to known code, a leader is."""
        pending = [rva for rva in rvas if self._lead(rva)]
        while pending:
            for instruction in self._iter_instructions(pending.pop()):
                rva = instruction.rva
                if rva in self._explored:
                    self._lead(rva)
                    break
                leads = self._explored[rva] = self._instruction_set.leads(instruction)
                pending += [target for target in leads.targets if self.holds(target) and self._lead(target)]
                if not leads.falls_through:
                    heapq.heappush(self._ends, rva + instruction.size)
                    break

    def _lead(self, rva: int) -> bool:
        """``rva`` is a leader; whether its code is new."""
        if rva not in self._leaders:
            self._leaders.add(rva)
            if rva in self._owners:
                self._split_from[rva] = self._owners[rva]
                self._traces.pop(self._owners[rva], None)
        return rva not in self._explored

    def _iter_instructions(self, rva: int) -> Iterator[Instruction]:
        """The instructions from ``rva`` on, one after another; why there are no more is noted."""
        while self.holds(rva):
            decoded = self._decoded.get(rva)
            if decoded is not None:
                yield decoded
                rva += decoded.size
                continue
            code = self._code_at(rva)
            first = rva
            for instruction in self._instruction_set.decode(code, rva):
                if len(self._decoded) >= MAX_INSTRUCTIONS:
                    self.lost = self.lost or f"more than {MAX_INSTRUCTIONS} instructions"
                    return
                self._decoded[rva] = instruction
                yield instruction
                rva += instruction.size
            if rva == first:
                if not self.is_guessing:
                    reason = f"no instruction at 0x{rva:x}" if code else f"code at 0x{rva:x} is not in memory"
                    self.lost = self.lost or reason
                return

    def _code_at(self, rva: int) -> bytes:
        for start, code in self._pieces:
            if start <= rva < start + len(code):
                return code[rva - start : rva - start + self._instruction_set.decoded_bytes]
        return b""

    def _read_trace(self, leader: int) -> Trace:
        rva = leader
        next_rva: Optional[int] = None
        instructions: List[Tuple[Instruction, Leads]] = []
        while rva in self._explored and next_rva is None:
            instruction, leads = self._decoded[rva], self._explored[rva]
            instructions.append((instruction, leads))
            if not leads.falls_through:
                break
            rva += instruction.size
            next_rva = rva if rva in self._leaders else None
        targets = (target for _, leads in instructions for target in leads.targets)
        return Trace(instructions, next_rva, tuple(target for target in targets if target in self._leaders))

    def _number(self, entry: int) -> None:
        """Number what ``entry`` reaches and has no number yet, in reverse postorder of a depth-first search."""
        if entry in self._order:
            return
        finished: List[int] = []
        seen = {entry}
        stack = [(entry, self._iter_successors(entry))]
        while stack:
            leader, successors = stack[-1]
            following = next((rva for rva in successors if rva not in seen and rva not in self._order), None)
            if following is None:
                finished.append(leader)
                stack.pop()
            else:
                seen.add(following)
                stack.append((following, self._iter_successors(following)))
        self._order.update((leader, number) for number, leader in enumerate(reversed(finished), len(self._order)))

    def _iter_successors(self, leader: int) -> Iterator[int]:
        trace = self.trace(leader)
        yield from self._indirect.get(leader, ())
        if trace.next_rva is not None:
            yield trace.next_rva
        yield from reversed(trace.jumped_to)


def _join_adjacent(ranges: Iterable[Tuple[int, int]]) -> List[Tuple[int, int]]:
    """The same places in as few ranges as possible: a function may be told in thousands of fragments."""
    joined: List[Tuple[int, int]] = []
    for start, end in sorted(ranges):
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((start, end))
    return joined


def _read_code(image: Image, ranges: Iterable[Tuple[int, int]]) -> List[Tuple[int, bytes]]:
    """The function's code that is in memory, each piece within one of its ranges."""
    pieces: List[Tuple[int, bytes]] = []
    room = MAX_FUNCTION_BYTES
    for start, end in ranges:
        size = min(end - start, room)
        pieces += image.iter_range(start, size)
        room -= size
    return pieces
