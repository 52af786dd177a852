"""Where x86 code of one function leads beyond what was taken for its end: then that was no end."""

from __future__ import annotations

import bisect
from typing import Dict, List, Sequence

from pykdext.attribution.flow.calls import LONGEST_INSTRUCTION_BYTES
from pykdext.attribution.flow.controlflow import ControlFlow
from pykdext.attribution.flow.processors import PROCESSORS
from pykdext.attribution.flow.state import Instruction
from pykdext.images.functiontable import FunctionBounds
from pykdext.images.image import Image
from pykdext.images.intelcode import filler_bytes

_MAX_FILLING_BYTES = 64


def find_last_parts(image: Image, parts: Sequence[FunctionBounds]) -> List[int]:
    """Of each of ``parts``, which stand side by side, the number of the last one that code links with it.

    An instruction lies across the border, or leads there and is no call, which may never return; a jump leads into the
    midst of another part, or one with a condition to where a later one begins.

    Raises:
        ImportError: capstone's library cannot be loaded.
    """
    starts = [part.start_rva for part in parts]
    _, end = parts[-1].ranges[-1]
    instructions = PROCESSORS[image.machine].open_instruction_set(image, {})
    code = ControlFlow(image, FunctionBounds(starts[0], ((starts[0], end),), parts[0].source), instructions)
    code.is_guessing = True
    for start in starts:
        if not code.is_explored(start) and not _is_covered(code, start):
            code.enter(start)
            _enter_all(image, code, end)
    last = list(range(len(parts)))
    before: Dict[int, Instruction] = {}
    for rva in code.explored():
        instruction = code.decode(rva)
        if instruction is None:
            continue
        number = bisect.bisect_right(starts, rva) - 1
        leads = instructions.leads(instruction)
        linked = [bisect.bisect_right(starts, rva + instruction.size - 1) - 1]
        if leads.falls_through:
            before[rva + instruction.size] = instruction
        for target in leads.targets:
            other = bisect.bisect_right(starts, target) - 1
            is_begin = target == starts[other]
            if code.holds(target) and (not is_begin or (leads.falls_through and other > number)):
                linked.append(other)
        for other in linked:
            first = min(number, other)
            last[first] = max(last[first], number, other)
    for number, start in enumerate(starts[1:]):
        instruction = before.get(start)
        while instruction is not None and _is_filling(image, instruction):
            instruction = before.get(instruction.rva)
        if instruction is not None and not instruction.text.startswith("call"):
            last[number] = max(last[number], number + 1)
    return last


def _is_covered(code: ControlFlow, rva: int) -> bool:
    """Whether an instruction that was decoded lies across ``rva``."""
    starts = (start for start in range(rva - 1, rva - LONGEST_INSTRUCTION_BYTES, -1) if code.is_explored(start))
    instructions = (code.decode(start) for start in starts)
    return any(instruction is not None and rva < instruction.rva + instruction.size for instruction in instructions)


def _enter_all(image: Image, code: ControlFlow, end_rva: int) -> None:
    """Decode what stands behind the ends of paths, up to ``end_rva``, but for filling."""
    behind = code.pop_end()
    while behind is not None:
        rva = behind + _count_filling(image, behind, end_rva)
        if rva < end_rva and not code.is_explored(rva) and code.decode(rva) is not None:
            code.enter(rva)
        behind = code.pop_end()


def _is_filling(image: Image, instruction: Instruction) -> bool:
    return _count_filling(image, instruction.rva, instruction.rva + instruction.size) == instruction.size


def _count_filling(image: Image, start_rva: int, end_rva: int) -> int:
    """The bytes from ``start_rva`` on that do nothing."""
    _, data = next(image.iter_range(start_rva, min(end_rva - start_rva, _MAX_FILLING_BYTES)), (0, b""))
    return filler_bytes(data)
