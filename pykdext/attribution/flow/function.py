"""Follow one function from its entry along every path and tell what it calls with which arguments.

Forward abstract interpretation: instructions are decoded where control flow leads, so that data between them does no
harm; where paths meet, their states are joined, until nothing new comes. Every value is a small set, so that loops end.
A place is followed when all that leads to it was, as far as loops allow: most code is followed once or twice.
"""

from __future__ import annotations

import heapq
import itertools
from types import MappingProxyType
from typing import Any, Dict, FrozenSet, Iterable, List, Optional, Set, Tuple

from pykdext.attribution.flow.calls import (
    ApplyCall,
    CallSite,
    FunctionFlow,
    RemovedBytes,
    apply_nothing,
)
from pykdext.attribution.flow.cells import part
from pykdext.attribution.flow.controlflow import ControlFlow
from pykdext.attribution.flow.processors import PROCESSORS
from pykdext.attribution.flow.state import NOTHING_TO_TELL, Call, Instruction, InstructionSet, State, Step
from pykdext.attribution.flow.values import (
    MAX_TAGS,
    UNKNOWN,
    Atom,
    Constant,
    ImageRead,
    Location,
    Parameter,
    Result,
    Value,
    constant,
)
from pykdext.images.functiontable import FunctionBounds
from pykdext.images.image import Image

MAX_STEPS = 100_000
"""Instructions that are followed, repetitions included; joining two states counts by their size."""

MAX_JOINS = 32
"""Times that paths are joined at one place before growing values are widened."""

MAX_CALLS = 2_000
"""Calls of one function that are told."""

STACK_BASE_BYTES = 1 << 24
"""Frame offsets of two bases of the stack pointer are so far apart: no frame is larger."""

_RETURN = "ret"
_TAG_BYTES, _TAG_NUMBERS = 4, range(0x01000000, 1 << 32)

_CELLS_A_STEP = 8
_STATES_COMPARED = 16
"""Calls looked at for what is the same at all of them."""


def follow_function(
    image: Image,
    bounds: FunctionBounds,
    removed_bytes: RemovedBytes = MappingProxyType({}),
    apply_call: ApplyCall = apply_nothing,
) -> FunctionFlow:
    """The calls of the function at ``bounds``. Bounded and never fails: what was cut is said in ``lost``.

    ``removed_bytes`` is of the functions that the image imports; ``apply_call`` knows what some of them do.
    """
    instruction_set = PROCESSORS[image.machine].open_instruction_set(image, removed_bytes)
    return _FunctionWalk(image, bounds, instruction_set, apply_call).follow()


class CallFrame:
    """A ``FrameReader``: the state right before a call. ``call_base`` is the frame offset of its stack arguments."""

    def __init__(self, state: State, call_base: Optional[int]) -> None:
        self.state = state
        self.call_base = call_base
        self._arguments: Dict[Tuple[Location, int], Value] = {}

    def argument(self, location: Location, size: int) -> Value:
        """What the callee gets at ``location``."""
        key = location, size
        if key not in self._arguments:
            self._arguments[key] = self._read_argument(location, size)
        return self._arguments[key]

    def _read_argument(self, location: Location, size: int) -> Value:
        if location.register:
            return part(self.state.read_register(location.register), 0, size)
        if self.call_base is None:
            return UNKNOWN
        return self.state.read_frame(self.call_base + location.stack_offset, size)

    def stack(self, offset: int, size: int) -> Value:
        """What stands in the caller's frame."""
        return self.state.read_frame(offset, size)


class _FunctionWalk:
    """The fixpoint over one function: the states at the leaders of its control flow."""

    def __init__(
        self, image: Image, bounds: FunctionBounds, instruction_set: InstructionSet[Any], apply_call: ApplyCall
    ) -> None:
        self._apply_call = apply_call
        self._kept: Dict[int, Value] = {}
        self._variables: Set[int] = set()
        self._members: Dict[Tuple[Atom, int], Value] = {}
        self._returned: Value = frozenset()
        self._base = image.module.base
        self._size = image.size
        self._start_rva = bounds.start_rva
        self._instruction_set = instruction_set
        self._code = ControlFlow(image, bounds, self._instruction_set)
        self._states: Dict[int, State] = {}
        self._joins: Dict[int, int] = {}
        self._pending: List[Tuple[int, int]] = []
        self._waiting: Set[int] = set()
        self._stack_bases: Dict[int, int] = {}
        self._switches: Dict[int, State] = {}
        self._tables: Dict[int, int] = {}
        self._calls: Dict[int, CallSite] = {}
        self._frames: Dict[int, CallFrame] = {}
        self._texts: Dict[int, str] = {}
        self._constant_bytes: Dict[int, int] = {}
        self._steps_left = MAX_STEPS
        self._lost: Optional[str] = None
        self._reached: FrozenSet[int] = frozenset()
        self._decides = False
        """Whether a jump goes one way only that numbers decide: code that nobody is seen to enter, such as an exception
        handler, may change these numbers."""

    def follow(self) -> FunctionFlow:
        """All paths from the entry, then what no known path reaches."""
        self._code.enter(self._start_rva)
        self._decides = not self._code.has_unexplored()
        self._follow_from(self._start_rva, self._instruction_set.entry_state())
        self._reached = frozenset(self._code.explored())
        self._code.is_guessing = True
        unreached = self._find_unreached()
        while unreached is not None and self._steps_left > 0:
            self._code.enter(unreached)
            self._follow_from(unreached, self._state_of_unreached())
            unreached = self._find_unreached()
        calls = tuple(site for _, site in sorted(self._calls.items()))
        lost = self._code.lost or self._lost
        return FunctionFlow(
            self._start_rva,
            calls,
            self._texts,
            self._constant_bytes,
            self._kept,
            self._members,
            frozenset(self._variables),
            self._returned,
            lost,
        )

    def _follow_from(self, rva: int, state: State) -> None:
        """Follow everything that a path from ``rva`` reaches."""
        state.kept, state.members, state.variables = self._kept, self._members, self._variables
        self._flow(rva, state)
        while self._pending and self._steps_left > 0:
            _, leader = heapq.heappop(self._pending)
            self._waiting.discard(leader)
            self._walk(leader)

    def _walk(self, leader: int) -> None:
        """Follow the trace of a leader."""
        state = self._states[leader].copy()
        trace = self._code.trace(leader)
        self._spend(len(trace.instructions))
        step_over = self._instruction_set.step
        for instruction, leads in trace.instructions:
            step = step_over(state, instruction)
            if step is not NOTHING_TO_TELL:
                self._take(leader, instruction, step, state)
            if leads.targets:
                taken = step.taken if self._decides else None
                if taken is not False:
                    self._jump(leader, instruction, leads.targets, state)
                if taken is True:
                    return
            elif not leads.falls_through and instruction.text.startswith(_RETURN):
                self._note_returned(state)
        if trace.next_rva is not None:
            self._flow(trace.next_rva, state, leader)

    def _note_returned(self, state: State) -> None:
        """Note what the function returns, if it may be a tag."""
        value = state.read_register(self._instruction_set.result)
        found = (
            atom
            for atom in value
            if isinstance(atom, Parameter)
            or (isinstance(atom, ImageRead) and atom.size >= _TAG_BYTES)
            or (isinstance(atom, Constant) and atom.number in _TAG_NUMBERS)
        )
        if value != UNKNOWN and len(self._returned) < MAX_TAGS:
            self._returned |= frozenset(found)

    def _take(self, leader: int, instruction: Instruction, step: Step, state: State) -> None:
        """Do what a step tells."""
        if step.brings_constant:
            self._texts[instruction.rva] = instruction.text
            self._constant_bytes[instruction.rva] = instruction.size
        if step.call:
            self._note_call(instruction, step.call, state)
            if not step.call.is_jump:
                self._instruction_set.return_from_call(state, instruction)
                if instruction.rva in self._calls:
                    self._apply_call(self._calls[instruction.rva], state)
                    self._note_result(self._calls[instruction.rva], state)
        targets = (*step.targets, *self._switch_targets(instruction, step, state))
        new_order = self._code.add_targets(leader, targets) if targets else 0
        if new_order:
            self._spend(new_order)
            self._pending = [(self._code.order(waiting), waiting) for waiting in self._waiting]
            heapq.heapify(self._pending)
        self._jump(leader, instruction, targets, state)

    def _note_result(self, site: CallSite, state: State) -> None:
        """What a function of the image returned is known by the call."""
        (target, *others) = site.target
        if others or not isinstance(target, Constant) or not 0 <= target.number - self._base < self._size:
            return
        if state.read_register(self._instruction_set.result) == UNKNOWN:
            state.registers[self._instruction_set.result] = frozenset({Result(site.rva)})

    def _jump(self, leader: int, instruction: Instruction, targets: Iterable[int], state: State) -> None:
        for target in targets:
            if self._code.holds(target):
                self._flow(target, state, leader)
            else:
                tail_call = Call(constant(self._base + target, instruction.rva), UNKNOWN, is_jump=True)
                self._note_call(instruction, tail_call, state)

    def _flow(self, rva: int, state: State, leader: Optional[int] = None) -> None:
        """A path leads to ``rva`` with ``state``, from the trace of ``leader``.

        Code that was reached for sure is not to be blurred by what may be data; only a switch truly leads there.
        """
        if not self._switches and rva in self._reached:
            return
        known = self._states.get(rva)
        state = self._settle_stack(rva, state, known)
        self._spend(1 + state.cell_count // _CELLS_A_STEP)
        self._joins[rva] = self._joins.get(rva, 0) + 1
        if known is None:
            self._states[rva] = state.copy()
            self._wait(rva)
            followed = self._code.split_from(rva)
            while followed is not None and followed not in self._states:
                followed = self._code.split_from(followed)
            if followed is not None and followed != leader:
                self._wait(followed)  # its trace ends here from now on
            return
        if known.merge(state, widen=self._joins[rva] > MAX_JOINS):
            self._wait(rva)

    def _settle_stack(self, rva: int, state: State, known: Optional[State]) -> State:
        """The state as it enters ``rva``: where paths disagree on the stack pointer, it gets a base of its own there.

        That is where calls on one of the paths remove more than is known. What is pushed from there on is followed.
        """
        pointer = self._instruction_set.stack_pointer
        if rva not in self._stack_bases:
            if known is None or known.stack_offset(pointer) == state.stack_offset(pointer):
                return state
            self._stack_bases[rva] = -STACK_BASE_BYTES * (len(self._stack_bases) + 1)
            self._instruction_set.place_stack(known, self._stack_bases[rva])
            self._wait(rva)
        settled = state.copy()
        self._instruction_set.place_stack(settled, self._stack_bases[rva])
        return settled

    def _wait(self, leader: int) -> None:
        if leader not in self._waiting:
            self._waiting.add(leader)
            heapq.heappush(self._pending, (self._code.order(leader), leader))

    def _switch_targets(self, instruction: Instruction, step: Step, state: State) -> Tuple[int, ...]:
        """Where the arms of a switch are; without them its state is kept for the arms that are found later."""
        if step.switch is None:
            return ()
        targets = tuple(itertools.takewhile(self._code.holds, step.switch.targets))
        if targets:
            self._tables[step.switch.table_rva] = len(targets) * step.switch.entry_bytes
            self._switches.pop(instruction.rva, None)
        else:
            self._switches[instruction.rva] = state.copy()
        return targets

    def _note_call(self, instruction: Instruction, call: Call, state: State) -> None:
        if len(self._calls) >= MAX_CALLS and instruction.rva not in self._calls:
            self._lost = self._lost or f"more than {MAX_CALLS} calls"
            return
        self._spend(state.cell_count // _CELLS_A_STEP)
        base = state.stack_offset(self._instruction_set.stack_pointer)
        if base is not None and call.is_jump:
            base += state.return_bytes  # the stack pointer is already where the callee will find it
        frame = self._frames[instruction.rva] = CallFrame(state.copy(), base)
        self._calls[instruction.rva] = CallSite(instruction.rva, call.target, call.dispatched, frame, call.is_jump)
        self._texts[instruction.rva] = instruction.text

    def _find_unreached(self) -> Optional[int]:
        """The first instruction behind the end of a path (or where a part begins) that no path has come to.

        It is an arm of a switch whose table is not understood, or an exception handler.
        """
        end = self._code.pop_end()
        while end is not None:
            rva = end
            while not self._code.is_explored(rva) and self._code.holds(rva) and not self._is_table(rva):
                instruction = self._code.decode(rva)
                if instruction is None:
                    break
                if not self._instruction_set.is_padding(instruction):
                    return rva
                self._spend(1)
                if self._steps_left <= 0:
                    return None
                rva += instruction.size
            end = self._code.pop_end()
        return None

    def _state_of_unreached(self) -> State:
        """What holds wherever the unreached code is entered from.

        That is a switch, if there is one; else only what is the same at all calls: where the frame is.
        """
        states = list(itertools.islice(self._switches.values(), _STATES_COMPARED))
        if states:
            joined = states[0].copy()
            for state in states[1:]:
                self._spend(1 + state.cell_count // _CELLS_A_STEP)
                joined.merge(state)
            return joined
        callers = [frame.state for frame in itertools.islice(self._frames.values(), _STATES_COMPARED)]
        frame_pointers: Dict[str, Value] = {}
        if callers:
            frame_pointers = {
                name: value
                for name, value in callers[0].registers.items()
                if callers[0].stack_offset(name) is not None
                and all(caller.read_register(name) == value for caller in callers)
            }
        return State(frame_pointers, self._instruction_set.entry_state().return_bytes)

    def _is_table(self, rva: int) -> bool:
        return any(start <= rva < start + size for start, size in self._tables.items())

    def _spend(self, steps: int) -> None:
        self._steps_left -= steps
        if self._steps_left <= 0:
            self._lost = self._lost or f"more than {MAX_STEPS} steps"
