"""A processor that nobody knows is an error everywhere, never silently another one."""

from __future__ import annotations

import enum

import pytest

from pykdext.attribution.calls.allocators import argument_locations
from pykdext.attribution.calls.directcalls import find_direct_calls
from pykdext.attribution.calls.references import find_references
from pykdext.attribution.flow.function import follow_function
from pykdext.attribution.flow.thunks import read_thunk
from pykdext.attribution.places.index import ImageIndex
from pykdext.errors import UnknownMachineError
from pykdext.images.functiontable import FunctionBounds, FunctionTable
from pykdext.images.image import read_image
from pykdext.images.unwindtables import read_unwind_table
from pykdext.model import Machine, Module
from tests.helpers.segments import SegmentsTarget
from tests.images.test_image import CODE, PAGE, make_image

BASE = 0x140000000


class Strange(enum.Enum):
    RISCV = "riscv64"

    @property
    def pointer_size(self):
        return 8


@pytest.fixture
def image():
    memory = make_image((b".text", b"\x41\xb8Pipo\xc3".ljust(PAGE, b"\xcc"), CODE))
    target = SegmentsTarget({BASE: memory}, modules=(Module("made.sys", BASE, len(memory)),))
    image = read_image(target, target.modules()[0])
    image.machine = Strange.RISCV
    return image


@pytest.mark.parametrize(
    "ask",
    [
        lambda image: argument_locations(image.machine),
        lambda image: find_direct_calls(image, [PAGE]),
        lambda image: find_references(image, [PAGE]),
        lambda image: follow_function(image, FunctionBounds(PAGE, ((PAGE, PAGE + 7),), "flow")),
        lambda image: read_thunk(image, PAGE),
        lambda image: ImageIndex([image]),
        lambda image: FunctionTable(image).find(PAGE),
        read_unwind_table,
    ],
    ids=["arguments", "calls", "references", "flow", "thunk", "index", "functions", "unwind"],
)
def test_an_unknown_processor_is_an_error(image, ask):
    with pytest.raises(UnknownMachineError, match="riscv64") as caught:
        ask(image)
    assert caught.value.machine == "riscv64"
    image.machine = Machine.X64
    ask(image)
