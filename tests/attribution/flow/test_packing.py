"""Flows as text and back: nothing is lost of any function of the sample drivers."""

from __future__ import annotations

import json
from typing import get_args

import pytest

from dumps.drivers import build
from pykdext.attribution.flow.calls import FunctionFlow
from pykdext.attribution.flow.function import follow_function
from pykdext.attribution.flow.packing import pack_flow, unpack_flow
from pykdext.attribution.flow.values import (
    UNKNOWN,
    UNKNOWN_ATOM,
    Atom,
    Constant,
    Displaced,
    Entry,
    FieldRead,
    ImageRead,
    Location,
    Parameter,
    Result,
    Returned,
    StackAddress,
)
from pykdext.images.functiontable import FunctionTable
from pykdext.images.image import read_image
from pykdext.images.imagefile import open_image_file
from pykdext.images.unwindtables import read_unwind_table

pytest.importorskip("capstone")


def iter_flows(path):
    with open_image_file(path) as target:
        image = read_image(target, target.modules()[0], zeros_are_code=True)
        table = FunctionTable(image)
        starts = {part.function_start for part in read_unwind_table(image)} or set(table._x86_starts)
        for start in sorted(starts)[:40]:
            bounds = table.find(start)
            if bounds is not None:
                yield follow_function(image, bounds)


def origins(value):
    return sorted(repr(atom) for atom in value)


@pytest.mark.parametrize("name", ["x64/pippo.sys", "x64/lookas.sys", "x86/pippo.sys", "arm64/pippo.sys"])
def test_a_flow_comes_back_as_it_was(name):
    flows = list(iter_flows(build.IMAGES / name))
    assert len(flows) > 3 and any(flow.calls for flow in flows)
    for flow in flows:
        again = unpack_flow(pack_flow(flow))
        assert (again.start_rva, again.variables, again.lost) == (flow.start_rva, flow.variables, flow.lost)
        assert (again.instruction_text, again.constant_bytes) == (flow.instruction_text, flow.constant_bytes)
        assert list(again.kept) == list(flow.kept) and list(again.members) == list(flow.members)
        for mine, its in ((again.kept, flow.kept), (again.members, flow.members)):
            assert all(origins(mine[key]) == origins(value) for key, value in its.items())
        assert len(again.calls) == len(flow.calls)
        for mine, its in zip(again.calls, flow.calls):
            assert (mine.rva, mine.is_jump) == (its.rva, its.is_jump)
            assert (origins(mine.target), origins(mine.dispatched)) == (origins(its.target), origins(its.dispatched))
            assert (mine.target is UNKNOWN) == (its.target == UNKNOWN)
            state, other = mine.frame.state, its.frame.state
            assert (mine.frame.call_base, state.return_bytes) == (its.frame.call_base, other.return_bytes)
            assert {name: origins(value) for name, value in state.registers.items()} == {
                name: origins(value) for name, value in other.registers.items()
            }
            assert [(cell.offset, cell.size, origins(cell.value)) for cell in state.frame] == [
                (cell.offset, cell.size, origins(cell.value)) for cell in other.frame
            ]


ATOMS = [
    Constant(7, 0x1000),
    Constant(7),
    Parameter(Location("rcx")),
    Parameter(Location("", 0x28)),
    ImageRead(0x3000, 4),
    FieldRead(FieldRead(ImageRead(0x3000, 8), 16, 8), 4, 4),
    StackAddress(-8),
    Displaced(FieldRead(Parameter(Location("rcx", 0)), 8, 8), 0x18),
    Returned(0x1010),
    Result(0x1020),
    Entry(0x14000),
    UNKNOWN_ATOM,
]


def test_what_a_variable_may_hold_of_every_kind_comes_back():
    assert {type(atom) for atom in ATOMS} == set(get_args(Atom))
    kept = {rva: frozenset({atom}) for rva, atom in enumerate(ATOMS)}
    again = unpack_flow(pack_flow(FunctionFlow(0x1000, (), kept=kept)))
    assert {rva: origins(value) for rva, value in again.kept.items()} == {
        rva: origins(value) for rva, value in kept.items()
    }


WHOLE = {
    "start": 1,
    "calls": [],
    "texts": [],
    "constants": [],
    "kept": [],
    "members": [],
    "variables": [],
    "values": [],
}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "1",
        json.dumps(WHOLE),
        json.dumps({**WHOLE, "lost": None, "calls": [1]}),
        json.dumps({**WHOLE, "lost": None, "calls": [[1, 0, 0, False, 0, 8, [], []]]}),
        json.dumps({**WHOLE, "lost": None, "values": [[[99]]]}),
        json.dumps({**WHOLE, "lost": None, "values": [[[]]]}),
        json.dumps({**WHOLE, "lost": None, "kept": [[1, 5]]}),
        "[" * 100_000,
    ],
)
def test_what_is_no_flow_is_refused(text):
    with pytest.raises(ValueError, match="no flow of a function"):
        unpack_flow(text)
