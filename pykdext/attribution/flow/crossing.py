"""Whether code runs across a place where a function seems to begin: then none begins there."""

from __future__ import annotations

from pykdext.attribution.flow.controlflow import ControlFlow
from pykdext.attribution.flow.processors import PROCESSORS
from pykdext.images.functiontable import FunctionBounds
from pykdext.images.image import Image


def runs_across(image: Image, bounds: FunctionBounds, rva: int) -> bool:
    """Whether an instruction lies across ``rva`` that direct jumps reach from the entry of ``bounds``.

    Raises:
        ImportError: capstone's library cannot be loaded.
    """
    code = ControlFlow(image, bounds, PROCESSORS[image.machine].open_instruction_set(image, {}))
    code.enter(bounds.start_rva)
    code.is_guessing = True
    for start in code.explored():
        instruction = code.decode(start) if start < rva else None
        if instruction is not None and rva < start + instruction.size:
            return True
    return False
