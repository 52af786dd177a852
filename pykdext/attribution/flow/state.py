"""The state of a machine at a place in a function, and what an instruction set has to tell of its instructions.

The engine (``function``) knows control flow and nothing of a processor; an ``InstructionSet`` knows one processor and
nothing of control flow.
"""

from __future__ import annotations

from typing import Callable, Dict, Iterator, NamedTuple, Optional, Protocol, Set, Tuple, TypeVar

from pykdext.attribution.flow.cells import Cells
from pykdext.attribution.flow.decisions import Comparison
from pykdext.attribution.flow.values import UNKNOWN, Atom, Location, Parameter, StackAddress, Value, join

VECTOR_BYTES = 64
"""Room of one vector register in ``State.vectors``: register n begins at n * VECTOR_BYTES."""


class Table(NamedTuple):
    """An array in the image that was read with an index nobody knows.

    ``address`` is where it begins; a jump through it goes to ``base`` plus the entry (0: entries are addresses).
    ``entries`` is their number where the index was compared with a limit before.
    """

    address: int
    entry_bytes: int
    base: int
    entries: Optional[int] = None


class State:
    """What registers and stack can hold. One instruction changes it in place; paths are joined by :meth:`merge`.

    Attributes:
        registers: full name (``rcx``, ``ecx`` on x86, ``x2``) to value; what is missing is UNKNOWN.
        frame: the stack, by the offsets of ``StackAddress``: 0 is where the stack pointer points at the entry.
        vectors: the vector registers, each VECTOR_BYTES long.
        return_bytes: what the call instruction pushed: the pointer size on Intel, 0 on ARM64. The caller's stack
        arguments begin there.
        escaped: the lowest frame offset whose address was handed to somebody, or None.
        table: the last array read with an unknown index, for a jump through it. compared: what the instruction before
        compared; copies have None.
        kept: what was stored in variables of the image, by RVA. members: what was stored behind pointers, by what the
        pointer is and the offset from it. variables: RVAs at which the image is read or written, of arrays where they
        begin. All states of a function share these three.
    """

    __slots__ = (
        "compared",
        "escaped",
        "frame",
        "kept",
        "members",
        "registers",
        "return_bytes",
        "table",
        "variables",
        "vectors",
    )

    def __init__(self, registers: Dict[str, Value], return_bytes: int) -> None:
        self.registers = registers
        self.frame = Cells()
        self.vectors = Cells()
        self.return_bytes = return_bytes
        self.escaped: Optional[int] = None
        self.table: Optional[Table] = None
        self.compared: Optional[Comparison] = None
        self.kept: Dict[int, Value] = {}
        self.members: Dict[Tuple[Atom, int], Value] = {}
        self.variables: Set[int] = set()

    @property
    def cell_count(self) -> int:
        """How much it holds, as a measure of the work to copy or join it."""
        return len(self.registers) + len(self.frame) + len(self.vectors)

    def copy(self) -> State:
        """The same state, to be changed apart."""
        copied = State(dict(self.registers), self.return_bytes)
        copied.frame = self.frame.copy()
        copied.vectors = self.vectors.copy()
        copied.escaped = self.escaped
        copied.table = self.table
        copied.kept, copied.members, copied.variables = self.kept, self.members, self.variables
        return copied

    def read_register(self, name: str) -> Value:
        """The full register."""
        return self.registers.get(name, UNKNOWN)

    def read_frame(self, offset: int, size: int) -> Value:
        """The ``size`` bytes of the stack at ``offset``; above the return address: a parameter, until overwritten."""
        value = self.frame.read(offset, size)
        if value is not None:
            return value
        if offset >= self.return_bytes and (size >= 4 or (size == 2 and (offset - self.return_bytes) % 4 == 0)):
            return frozenset({Parameter(Location("", offset - self.return_bytes))})
        return UNKNOWN

    def write_frame(self, offset: int, size: int, value: Value) -> None:
        """Put ``value`` on the stack. A stack address that is stored counts as handed out."""
        self.frame.write(offset, size, value)
        self.escape(value)

    def escape(self, value: Value) -> None:
        """Note that somebody else may know the stack addresses in ``value`` and write from there upwards."""
        for atom in value:
            if isinstance(atom, StackAddress):
                self.escaped = atom.offset if self.escaped is None else min(self.escaped, atom.offset)

    def stack_offset(self, register: str) -> Optional[int]:
        """The frame offset that ``register`` points at, if it is one and only one."""
        value = self.read_register(register)
        atom = next(iter(value))
        return atom.offset if len(value) == 1 and isinstance(atom, StackAddress) else None

    def merge(self, other: State, widen: bool = False) -> bool:
        """Join ``other`` into this state; whether that told anything new.

        With ``widen`` a value that grows takes in UNKNOWN and nothing else, so that it does so once only.
        """
        registers_changed = self._merge_registers(other, widen)
        frame_changed = _merge_cells(self.frame, other.frame, self.read_frame, other.read_frame, widen)
        vectors_changed = _merge_cells(self.vectors, other.vectors, self._read_vectors, other._read_vectors, widen)
        escaped = min((offset for offset in (self.escaped, other.escaped) if offset is not None), default=None)
        rest_changed = escaped != self.escaped or (self.table is not None and self.table != other.table)
        self.escaped = escaped
        if self.table != other.table:
            self.table = None
        return registers_changed or frame_changed or vectors_changed or rest_changed

    def _merge_registers(self, other: State, widen: bool) -> bool:
        changed = False
        mine, theirs = self.registers, other.registers
        for name in [name for name, its, own in zip(theirs, theirs.values(), map(mine.get, theirs)) if own is not its]:
            before = mine.get(name, UNKNOWN)
            joined = _join(before, theirs[name], widen)
            if joined is not before:
                mine[name] = joined
                changed = True
        for name in mine.keys() - theirs.keys():
            joined = _join(mine[name], UNKNOWN, widen)
            if joined is not mine[name]:
                mine[name] = joined
                changed = True
        return changed

    def _read_vectors(self, offset: int, size: int) -> Value:
        value = self.vectors.read(offset, size)
        return UNKNOWN if value is None else value


def _merge_cells(
    mine: Cells,
    theirs: Cells,
    read_mine: Callable[[int, int], Value],
    read_theirs: Callable[[int, int], Value],
    widen: bool,
) -> bool:
    """Join ``theirs`` into ``mine``; the functions also tell what cells hold that were never written."""
    if mine.is_same_as(theirs):
        return False
    changed = False
    for cell in mine.differing_from(theirs):
        joined = _join(cell.value, read_theirs(cell.offset, cell.size), widen)
        if joined is not cell.value:
            mine.write(cell.offset, cell.size, joined)
            changed = True
    for cell in theirs.missing_in(mine):
        if not mine.overlaps(cell.offset, cell.size):
            before = read_mine(cell.offset, cell.size)
            joined = _join(before, cell.value, widen)
            if joined is not before:
                changed |= mine.write(cell.offset, cell.size, joined)
    return changed


def _join(mine: Value, theirs: Value, widen: bool) -> Value:
    """``mine`` itself if ``theirs`` tells nothing new."""
    if theirs is mine or theirs <= mine:
        return mine
    if not widen:
        joined = join(mine, theirs)
        return mine if joined == mine else joined
    return mine if mine >= UNKNOWN else mine | UNKNOWN


class Instruction(Protocol):
    """One decoded instruction; each instruction set adds what it needs."""

    @property
    def rva(self) -> int:
        """Where it begins."""

    @property
    def size(self) -> int:
        """Its bytes."""

    @property
    def text(self) -> str:
        """As a disassembler prints it."""


class Call(NamedTuple):
    """A call or tail call that the step met: ``target`` and ``dispatched`` as in ``CallSite``."""

    target: Value
    dispatched: Value
    is_jump: bool = False


class Switch(NamedTuple):
    """A jump through the table at ``table_rva``: the RVAs that its entries name, in order.

    It may be shorter: entries from the first one on that leads out of the function do not belong to it.
    """

    table_rva: int = 0
    entry_bytes: int = 0
    targets: Tuple[int, ...] = ()


class Leads(NamedTuple):
    """Where an instruction leads, as far as itself tells.

    Attributes:
        falls_through: the next instruction may follow. targets: RVAs that it may jump to; those outside of the function
        are tail calls.
    """

    falls_through: bool = True
    targets: Tuple[int, ...] = ()


STRAIGHT_ON = Leads()


class Step(NamedTuple):
    """What is to be told of an instruction, besides what it did to the state.

    Attributes:
        targets: RVAs that it may jump to and that only the state tells; as in ``Leads``. call: what it calls, with the
        state as the callee gets it: an instruction set applies the effects of the callee in ``return_from_call``.
        switch: for an indirect jump within the function: where its jump table leads, empty if it has none that is
        understood. brings_constant: its text explains where a number comes from. taken: of a conditional jump, that it
        is taken always (True) or never (False); None: it may be.
    """

    targets: Tuple[int, ...] = ()
    call: Optional[Call] = None
    switch: Optional[Switch] = None
    brings_constant: bool = False
    taken: Optional[bool] = None


NOTHING_TO_TELL = Step()
BRINGS_CONSTANT = Step(brings_constant=True)
DECIDED: Dict[Optional[bool], Step] = {None: NOTHING_TO_TELL, True: Step(taken=True), False: Step(taken=False)}
"""What a conditional jump tells."""


Decoded = TypeVar("Decoded", bound=Instruction)


class InstructionSet(Protocol[Decoded]):
    """What the engine asks of a processor. Made for one image; keeps nothing of a function."""

    @property
    def decoded_bytes(self) -> int:
        """Bytes of code that are best decoded at once, at least those of the longest instruction."""

    @property
    def stack_pointer(self) -> str:
        """Name of the register."""

    @property
    def result(self) -> str:
        """Name of the register in which functions return a number."""

    def entry_state(self) -> State:
        """The state at a function's entry: registers and stack hold its parameters."""

    def place_stack(self, state: State, offset: int) -> None:
        """The stack pointer is at the frame offset ``offset`` from now on."""

    def decode(self, code: bytes, rva: int) -> Iterator[Decoded]:
        """The instructions of ``code``, which lies at ``rva``, one after another up to what is no instruction."""

    def leads(self, instruction: Decoded) -> Leads:
        """Where control flow goes from ``instruction``, whatever the state is."""

    def is_padding(self, instruction: Decoded) -> bool:
        """Whether it stands between functions or before loops and does nothing (``int3``, ``nop``)."""

    def step(self, state: State, instruction: Decoded) -> Step:
        """Do the instruction to ``state`` and tell what is of interest. For a call: only what the caller does."""

    def return_from_call(self, state: State, instruction: Decoded) -> None:
        """What is known after the callee has returned to behind ``instruction``."""
