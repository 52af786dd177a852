"""What the flow through one function tells: its calls, with what each argument can be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Callable, FrozenSet, Mapping, Optional, Protocol, Tuple

from pykdext.attribution.flow.state import State
from pykdext.attribution.flow.values import Atom, Location, Value

RemovedBytes = Mapping[int, int]
"""The bytes of arguments that imported functions take from the stack on x86, by the RVA of the pointer to each."""


ApplyCall = Callable[["CallSite", State], None]
"""What is known of a call besides: it changes the state behind the call, of which all else is known already."""


def apply_nothing(_site: CallSite, _state: State) -> None:
    """Where nothing is known."""


class FrameReader(Protocol):
    """The state of a function at one of its calls."""

    def argument(self, location: Location, size: int) -> Value:
        """What the called function gets at ``location``, of which ``size`` bytes count; UNKNOWN if nothing is known."""

    def stack(self, offset: int, size: int) -> Value:
        """What stands in the caller's own frame, ``offset`` as in ``StackAddress``."""


LONGEST_INSTRUCTION_BYTES = 15


@dataclass(frozen=True)
class CallSite:
    """A call, or a jump that ends the function as a call would (tail call).

    Attributes:
        rva: of the instruction. target: what is called: a Constant is a virtual address (of this image or another), an
        ImageRead a pointer in the image (import table, function pointer), a FieldRead an entry of a table.
        dispatched: if the target is a stub that jumps to a register (control-flow guard, retpoline), that register's
        value, else UNKNOWN. frame: what the arguments are. is_jump: a tail call; its ``argument`` locations count as
        at the caller's own call.
    """

    rva: int
    target: Value
    dispatched: Value
    frame: FrameReader
    is_jump: bool = False


@dataclass(frozen=True)
class FunctionFlow:
    """One function, followed.

    Attributes:
        start_rva: its entry. calls: by ascending RVA. instruction_text: by RVA, as a disassembler prints it, of the
        instructions that bring in a constant, and of the calls. constant_bytes: how long the instructions that bring in
        a constant are. kept: by RVA, what the function stores in variables of the image; members: by what the pointer
        is and the offset, what it stores in structures behind pointers. Numbers, what calls returned, and parameters;
        behind a parameter UNKNOWN for all else.
        variables: the RVAs of what it reads and writes in the image, of arrays where they begin.
        returned: the numbers, variables of the image, and parameters that it may return.
        lost: why a part was not followed, or None.
    """

    start_rva: int
    calls: Tuple[CallSite, ...]
    instruction_text: Mapping[int, str] = field(default_factory=dict)
    constant_bytes: Mapping[int, int] = field(default_factory=dict)
    kept: Mapping[int, Value] = field(default_factory=dict)
    members: Mapping[Tuple[Atom, int], Value] = field(default_factory=dict)
    variables: FrozenSet[int] = frozenset()
    returned: Value = frozenset()
    lost: Optional[str] = None

    def reaches(self, rva: int) -> bool:
        """Whether a path leads through an instruction that brings in a constant and holds the byte at ``rva``."""
        starts = range(rva, rva - LONGEST_INSTRUCTION_BYTES, -1)
        return any(rva < start + self.constant_bytes.get(start, 0) for start in starts)
