"""A function's flow as text, to be kept, and back.

Values are many times the same: each stands once, in a table, and is meant by its number there.
"""

from __future__ import annotations

import json
from typing import Any, Dict, List, Sequence, Tuple, Type, get_args

from pykdext.attribution.flow.calls import CallSite, FrameReader, FunctionFlow
from pykdext.attribution.flow.cells import Cell, Cells
from pykdext.attribution.flow.function import CallFrame
from pykdext.attribution.flow.state import State
from pykdext.attribution.flow.values import (
    UNKNOWN,
    UNKNOWN_ATOM,
    Atom,
    Displaced,
    FieldRead,
    Location,
    Parameter,
    Unknown,
    Value,
)

_KINDS: Tuple[Type[Atom], ...] = get_args(Atom)


def pack_flow(flow: FunctionFlow) -> str:
    """A flow as :func:`unpack_flow` takes it."""
    values = _ValueTable()
    calls = [
        (
            site.rva,
            values.number(site.target),
            values.number(site.dispatched),
            site.is_jump,
            *_pack_frame(site.frame, values),
        )
        for site in flow.calls
    ]
    members = [(_pack_atom(base), offset, values.number(value)) for (base, offset), value in flow.members.items()]
    document = {
        "start": flow.start_rva,
        "calls": calls,
        "texts": list(flow.instruction_text.items()),
        "constants": list(flow.constant_bytes.items()),
        "kept": [(rva, values.number(value)) for rva, value in flow.kept.items()],
        "members": members,
        "variables": sorted(flow.variables),
        "returned": values.number(flow.returned),
        "lost": flow.lost,
        "values": values.packed,
    }
    return json.dumps(document, separators=(",", ":"))


def unpack_flow(text: str) -> FunctionFlow:
    """The flow that was packed. ValueError where ``text`` is nothing of the kind."""
    try:
        document = json.loads(text)
        values = [_unpack_value(atoms) for atoms in document["values"]]
        return FunctionFlow(
            document["start"],
            tuple(_unpack_call(call, values) for call in document["calls"]),
            dict(document["texts"]),
            dict(document["constants"]),
            {rva: values[number] for rva, number in document["kept"]},
            {(_unpack_atom(base), offset): values[number] for base, offset, number in document["members"]},
            frozenset(document["variables"]),
            values[document["returned"]],
            document["lost"],
        )
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"no flow of a function: {error}") from error


class _ValueTable:
    """Each value once; ``packed`` is the table so far."""

    def __init__(self) -> None:
        self.packed: List[List[Any]] = []
        self._numbers: Dict[str, int] = {}
        self._by_identity: Dict[int, Tuple[Value, int]] = {}

    def number(self, value: Value) -> int:
        """Where ``value`` stands. Equal constants of different instructions are not the same here."""
        known = self._by_identity.get(id(value))
        if known is not None:
            return known[1]
        atoms = sorted(map(_pack_atom, value), key=repr)
        number = self._numbers.setdefault(repr(atoms), len(self.packed))
        if number == len(self.packed):
            self.packed.append(atoms)
        self._by_identity[id(value)] = value, number  # the value lives as long as its identity is known
        return number


def _pack_frame(frame: FrameReader, values: _ValueTable) -> Tuple[Any, ...]:
    if not isinstance(frame, CallFrame):
        raise TypeError(f"a frame that was not followed: {frame!r}")
    state = frame.state
    registers = [(name, values.number(value)) for name, value in state.registers.items()]
    cells = [(offset, size, values.number(value)) for offset, size, value in state.frame]
    return frame.call_base, state.return_bytes, registers, cells


def _unpack_call(call: Sequence[Any], values: Sequence[Value]) -> CallSite:
    rva, target, dispatched, is_jump, call_base, return_bytes, registers, cells = call
    state = State({name: values[number] for name, number in registers}, return_bytes)
    state.frame = Cells({offset: Cell(offset, size, values[number]) for offset, size, number in cells})
    return CallSite(rva, values[target], values[dispatched], CallFrame(state, call_base), is_jump)


def _pack_atom(atom: Atom) -> List[Any]:
    facts = [_pack_atom(fact) if isinstance(fact, _KINDS) else fact for fact in vars(atom).values()]
    return [_KINDS.index(type(atom)), *facts]


def _unpack_value(atoms: Sequence[Sequence[Any]]) -> Value:
    value = frozenset(map(_unpack_atom, atoms))
    return UNKNOWN if value == UNKNOWN else value  # which is known by its identity


def _unpack_atom(packed: Sequence[Any]) -> Atom:
    kind, *facts = packed
    if _KINDS[kind] is Unknown:
        return UNKNOWN_ATOM
    if _KINDS[kind] in (Displaced, FieldRead):
        facts[0] = _unpack_atom(facts[0])
    elif _KINDS[kind] is Parameter:
        facts[0] = Location(*facts[0])
    atom: Atom = _KINDS[kind](*facts)
    return atom
