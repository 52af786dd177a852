"""Whether code runs across a place where a function seems to begin: then none begins there."""

from __future__ import annotations

from typing import Dict

from pykdext.attribution.flow.controlflow import ControlFlow
from pykdext.attribution.flow.processors import PROCESSORS
from pykdext.attribution.flow.state import Instruction
from pykdext.images.functiontable import FunctionBounds
from pykdext.images.image import Image


def runs_across(image: Image, bounds: FunctionBounds, rva: int) -> bool:
    """Whether direct jumps from the entry of ``bounds`` reach an instruction that lies across ``rva``, or leads there.

    A call that leads there says nothing: it may never return.

    Raises:
        ImportError: capstone's library cannot be loaded.
    """
    instructions = PROCESSORS[image.machine].open_instruction_set(image, {})
    code = ControlFlow(image, bounds, instructions)
    code.enter(bounds.start_rva)
    code.is_guessing = True
    ends: Dict[int, Instruction] = {}
    for start in code.explored():
        instruction = code.decode(start) if start < rva else None
        if instruction is not None and instructions.leads(instruction).falls_through:
            ends[start + instruction.size] = instruction
            if rva < start + instruction.size:
                return True
    before = ends.get(rva)
    while before is not None and instructions.is_padding(before):
        before = ends.get(before.rva)
    return before is not None and not before.text.startswith("call")
