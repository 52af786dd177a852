"""The processors whose code can be followed: one row for each."""

from __future__ import annotations

from typing import Any, Callable, NamedTuple, Optional

from pykdext.attribution.flow.arm64 import thunks as arm64_thunks
from pykdext.attribution.flow.calls import RemovedBytes
from pykdext.attribution.flow.intel.thunks import read_x64_thunk, read_x86_thunk
from pykdext.attribution.flow.state import InstructionSet
from pykdext.attribution.flow.values import Atom
from pykdext.images.image import Image
from pykdext.model import Machine, MachineTable


class Processor(NamedTuple):
    """What the flow needs of a processor.

    Attributes:
        open_instruction_set: for one image. read_thunk: where the bytes at an RVA of an image jump at once, or None.
    """

    open_instruction_set: Callable[[Image, RemovedBytes], InstructionSet[Any]]
    read_thunk: Callable[[Image, int, bytes], Optional[Atom]]


def _open_arm64(image: Image, _removed_bytes: RemovedBytes) -> InstructionSet[Any]:
    from pykdext.attribution.flow.arm64.instructionset import Arm64InstructionSet  # needs the disassembler

    return Arm64InstructionSet(image)


def _open_intel(image: Image, removed_bytes: RemovedBytes) -> InstructionSet[Any]:
    from pykdext.attribution.flow.intel.instructionset import IntelInstructionSet  # needs the disassembler

    return IntelInstructionSet(image, removed_bytes)


PROCESSORS = MachineTable(
    "the flow through functions",
    {
        Machine.X64: Processor(_open_intel, read_x64_thunk),
        Machine.X86: Processor(_open_intel, read_x86_thunk),
        Machine.ARM64: Processor(_open_arm64, arm64_thunks.read_thunk),
    },
)
