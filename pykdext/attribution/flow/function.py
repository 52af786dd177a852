"""Follow one function from its entry along every path and tell what it calls with which arguments.

Forward abstract interpretation: instructions are decoded where control flow leads, so that data between them does no
harm; where paths meet, their states are joined, until nothing new comes. Every value is a small set, so that loops end.
"""

from __future__ import annotations

import heapq
import itertools
from typing import Any, Dict, FrozenSet, List, Optional, Tuple

from pykdext.attribution.flow.calls import CallSite, FunctionFlow
from pykdext.attribution.flow.cells import part
from pykdext.attribution.flow.state import Call, Instruction, InstructionSet, State, Step
from pykdext.attribution.flow.values import UNKNOWN, Location, Value, constant
from pykdext.kernel.functiontable import FunctionBounds
from pykdext.kernel.image import Image
from pykdext.model import Machine

MAX_FUNCTION_BYTES = 1 << 20
"""Code of one function that is read."""

MAX_INSTRUCTIONS = 20_000
"""Instructions of one function that are decoded."""

MAX_STEPS = 100_000
"""Instructions that are followed, repetitions included; joining two states counts by their size."""

MAX_JOINS = 32
"""Times that paths are joined at one place before growing values are widened."""

MAX_CALLS = 2_000
"""Calls of one function that are told."""

_CELLS_A_STEP = 8
_STATES_COMPARED = 16
"""Calls looked at for what is the same at all of them."""


def follow_function(image: Image, bounds: FunctionBounds) -> FunctionFlow:
    """The calls of the function at ``bounds``. Bounded and never fails: what was cut is said in ``lost``."""
    return _FunctionWalk(image, bounds).follow()


def open_instruction_set(image: Image) -> InstructionSet[Any]:
    """What knows the instructions of the image's machine."""
    if image.machine is Machine.ARM64:
        from pykdext.attribution.flow.arm64 import Arm64InstructionSet

        return Arm64InstructionSet(image)
    from pykdext.attribution.flow.intel import IntelInstructionSet

    return IntelInstructionSet(image)


class CallFrame:
    """A ``FrameReader``: the state right before a call. ``call_base`` is the frame offset of its stack arguments."""

    def __init__(self, state: State, call_base: Optional[int]) -> None:
        self.state = state
        self._call_base = call_base

    def argument(self, location: Location, size: int) -> Value:
        """What the callee gets at ``location``."""
        if location.register:
            return part(self.state.read_register(location.register), 0, size)
        if self._call_base is None:
            return UNKNOWN
        return self.state.read_frame(self._call_base + location.stack_offset, size)

    def stack(self, offset: int, size: int) -> Value:
        """What stands in the caller's frame."""
        return self.state.read_frame(offset, size)


class _FunctionWalk:
    """The fixpoint over one function. A leader is a place that is jumped to; a walk goes from one to the next."""

    def __init__(self, image: Image, bounds: FunctionBounds) -> None:
        self._base = image.module.base
        self._bounds = bounds
        self._instruction_set = open_instruction_set(image)
        self._pieces = _read_code(image, bounds)
        self._decoded: Dict[int, Instruction] = {}
        self._leaders: Dict[int, State] = {}
        self._joins: Dict[int, int] = {}
        self._walked_from: Dict[int, int] = {}
        self._pending: List[int] = []
        self._ends: List[int] = sorted({start for start, _ in bounds.ranges})
        self._switches: Dict[int, State] = {}
        self._tables: Dict[int, int] = {}
        self._calls: Dict[int, Tuple[Call, CallFrame]] = {}
        self._texts: Dict[int, str] = {}
        self._steps_left = MAX_STEPS
        self._lost: Optional[str] = None
        self._guessing = False
        self._reached: FrozenSet[int] = frozenset()

    def follow(self) -> FunctionFlow:
        """All paths from the entry, then what no known path reaches."""
        self._flow(self._bounds.start_rva, self._instruction_set.entry_state())
        self._walk_pending()
        self._reached = frozenset(self._walked_from)
        self._guessing = True
        unreached = self._find_unreached()
        while unreached is not None and self._steps_left > 0:
            self._flow(unreached, self._state_of_unreached())
            self._walk_pending()
            unreached = self._find_unreached()
        calls = tuple(
            CallSite(rva, call.target, call.dispatched, frame, call.is_jump)
            for rva, (call, frame) in sorted(self._calls.items())
        )
        return FunctionFlow(self._bounds.start_rva, calls, self._texts, self._lost)

    def _walk_pending(self) -> None:
        while self._pending and self._steps_left > 0:
            leader = heapq.heappop(self._pending)
            if not self._pending or self._pending[0] != leader:  # else it is there twice
                self._walk(leader)

    def _walk(self, leader: int) -> None:
        """Follow the instructions from a leader to the next one or to where control flow leaves."""
        state = self._leaders[leader].copy()
        rva = leader
        while True:
            instruction = self._decode(rva)
            if instruction is None:
                return
            self._walked_from[rva] = leader
            self._spend(1)
            step = self._instruction_set.step(state, instruction)
            self._note(instruction, step, state)
            if step.call and not step.call.is_jump:
                self._instruction_set.return_from_call(state, instruction)
            for target in (*step.targets, *self._switch_targets(instruction, step, state)):
                if self._holds(target):
                    self._flow(target, state)
            rva += instruction.size
            if not step.falls_through:
                heapq.heappush(self._ends, rva)
                return
            if rva in self._leaders or (rva in self._reached and leader not in self._reached):
                self._flow(rva, state)
                return
            if self._steps_left <= 0:
                return

    def _flow(self, rva: int, state: State) -> None:
        """A path leads to ``rva`` with ``state``.

        Code that was reached for sure is not to be blurred by what may be data; only a switch truly leads there.
        """
        if self._guessing and not self._switches and rva in self._reached:
            return
        known = self._leaders.get(rva)
        self._spend(1 + state.cell_count // _CELLS_A_STEP)
        self._joins[rva] = self._joins.get(rva, 0) + 1
        if known is None:
            self._leaders[rva] = state.copy()
            heapq.heappush(self._pending, rva)
            if rva in self._walked_from:  # that walk has to end here from now on
                heapq.heappush(self._pending, self._walked_from[rva])
        elif known.merge(state, widen=self._joins[rva] > MAX_JOINS):
            heapq.heappush(self._pending, rva)

    def _note(self, instruction: Instruction, step: Step, state: State) -> None:
        """Keep what the result will tell of an instruction."""
        rva = instruction.rva
        if step.call:
            self._note_call(instruction, step.call, state)
        for target in step.targets:
            if not self._holds(target):
                tail_call = Call(constant(self._base + target, rva), UNKNOWN, is_jump=True)
                self._note_call(instruction, tail_call, state)
        if step.brings_constant:
            self._texts[rva] = instruction.text

    def _switch_targets(self, instruction: Instruction, step: Step, state: State) -> Tuple[int, ...]:
        """Where the arms of a switch are; without them its state is kept for the arms that are found later."""
        if step.switch is None:
            return ()
        targets = tuple(itertools.takewhile(self._holds, step.switch.targets))
        if targets:
            self._tables[step.switch.table_rva] = len(targets) * step.switch.entry_bytes
            self._switches.pop(instruction.rva, None)
        else:
            self._switches[instruction.rva] = state.copy()
        return targets

    def _note_call(self, instruction: Instruction, call: Call, state: State) -> None:
        if len(self._calls) >= MAX_CALLS and instruction.rva not in self._calls:
            self._lose(f"more than {MAX_CALLS} calls")
            return
        self._spend(state.cell_count // _CELLS_A_STEP)
        base = state.stack_offset(self._instruction_set.stack_pointer)
        if base is not None and call.is_jump:
            base += state.return_bytes  # the stack pointer is already where the callee will find it
        self._calls[instruction.rva] = call, CallFrame(state.copy(), base)
        self._texts[instruction.rva] = instruction.text

    def _find_unreached(self) -> Optional[int]:
        """The first instruction behind the end of a path (or where a part begins) that no path has come to.

        It is an arm of a switch whose table is not understood, or an exception handler.
        """
        while self._ends:
            rva = heapq.heappop(self._ends)
            while rva not in self._walked_from and self._holds(rva) and not self._is_table(rva):
                instruction = self._decode(rva)
                if instruction is None:
                    break
                if not self._instruction_set.is_padding(instruction):
                    return rva
                rva += instruction.size
        return None

    def _state_of_unreached(self) -> State:
        """What holds wherever the unreached code is entered from.

        That is a switch, if there is one; else only what is the same at all calls: where the frame is.
        """
        callers = itertools.islice(self._calls.values(), _STATES_COMPARED)
        states = list(self._switches.values())[:_STATES_COMPARED] or [frame.state for _, frame in callers]
        if not states:
            entry = self._instruction_set.entry_state()
            return State({}, entry.return_bytes)
        joined = states[0].copy()
        for state in states[1:]:
            joined.merge(state)
        if self._switches:
            return joined
        frame_pointers = {
            name: value for name, value in joined.registers.items() if joined.stack_offset(name) is not None
        }
        return State(frame_pointers, joined.return_bytes)

    def _decode(self, rva: int) -> Optional[Instruction]:
        """The instruction at ``rva``; None, and noted, where there is none."""
        instruction = self._decoded.get(rva)
        if instruction or not self._holds(rva):
            return instruction
        if len(self._decoded) >= MAX_INSTRUCTIONS:
            self._lose(f"more than {MAX_INSTRUCTIONS} instructions")
            return None
        code = self._code_at(rva)
        instruction = self._instruction_set.decode(code, rva) if code else None
        if instruction:
            self._decoded[rva] = instruction
        elif not self._guessing:
            self._lose(f"no instruction at 0x{rva:x}" if code else f"code at 0x{rva:x} is not in memory")
        return instruction

    def _code_at(self, rva: int) -> bytes:
        for start, code in self._pieces:
            if start <= rva < start + len(code):
                return code[rva - start : rva - start + self._instruction_set.max_instruction_bytes]
        return b""

    def _holds(self, rva: int) -> bool:
        return any(start <= rva < end for start, end in self._bounds.ranges)

    def _is_table(self, rva: int) -> bool:
        return any(start <= rva < start + size for start, size in self._tables.items())

    def _spend(self, steps: int) -> None:
        self._steps_left -= steps
        if self._steps_left <= 0:
            self._lose(f"more than {MAX_STEPS} steps")

    def _lose(self, reason: str) -> None:
        self._lost = self._lost or reason


def _read_code(image: Image, bounds: FunctionBounds) -> List[Tuple[int, bytes]]:
    """The function's code that is in memory, each piece within one of its ranges."""
    pieces: List[Tuple[int, bytes]] = []
    room = MAX_FUNCTION_BYTES
    for start, end in bounds.ranges:
        size = min(end - start, room)
        pieces += image.iter_range(start, size)
        room -= size
    return pieces
