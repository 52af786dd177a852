"""What rare instructions of x64 and x86 change that their operands do not tell: more memory, other registers.

Meanings are those of the Intel SDM, and of AMD's and VIA's manuals for ``clzero`` and the PadLock instructions. What
they change is UNKNOWN from then on; of others the disassembler tells what they write.
"""

from __future__ import annotations

from typing import Dict, Sequence

from pykdext.attribution.flow.intel.decoder import GeneralRegister, Immediate, IntelInstruction, MemoryOperand
from pykdext.attribution.flow.intel.operands import Operands
from pykdext.attribution.flow.intel.scalars import Handler
from pykdext.attribution.flow.state import VECTOR_BYTES, State
from pykdext.attribution.flow.values import UNKNOWN, StackAddress, Value

_CACHE_LINE_BYTES, _VECTOR_REGISTERS, _SAVED_REGISTERS = 64, 32, 8
_FAR_BELOW = -(1 << 40)
"""No frame has a cell below it."""


def _save(operands: Operands, state: State, instruction: IntelInstruction) -> None:
    """``fxsave``, ``xsave``: an area whose size only the processor knows."""
    for operand in instruction.operands:
        if isinstance(operand, MemoryOperand):
            pointer, offset = operands.address(state, instruction, operand)
            _forget(state, pointer, offset)


def _restore(_operands: Operands, state: State, _instruction: IntelInstruction) -> None:
    """``fxrstor``, ``xrstor``: the vector registers come from memory."""
    for number in range(_VECTOR_REGISTERS):
        state.vectors.remove(number * VECTOR_BYTES, VECTOR_BYTES)


def _scatter(operands: Operands, state: State, instruction: IntelInstruction) -> None:
    """``vpscatterdd``: wherever the indices in a vector register lead, also below the base."""
    for operand in instruction.operands:
        if isinstance(operand, MemoryOperand):
            _forget(state, operands.address(state, instruction, operand).pointer, _FAR_BELOW)


def _store_behind(index: int) -> Handler:
    """``movdir64b``: a cache line where the register leads that is the operand at ``index``."""

    def handle(operands: Operands, state: State, instruction: IntelInstruction) -> None:
        pointer = operands.read(state, instruction, index)
        operands.memory.store(state, pointer, 0, _CACHE_LINE_BYTES, UNKNOWN)

    return handle


def _clear_line(operands: Operands, state: State, _instruction: IntelInstruction) -> None:
    """``clzero``: the cache line around where the accumulator leads."""
    pointer = state.read_register(operands.accumulator)
    operands.memory.store(state, pointer, 1 - _CACHE_LINE_BYTES, 2 * _CACHE_LINE_BYTES, UNKNOWN)


def _store_masked(operands: Operands, state: State, instruction: IntelInstruction) -> None:
    """``maskmovdqu``: as much as the vector has where the destination register leads."""
    pointer = state.read_register(operands.destination)
    operands.memory.store(state, pointer, 0, instruction.operands[0].size, UNKNOWN)


def _fill_from_outside(operands: Operands, state: State, _instruction: IntelInstruction) -> None:
    """``ins``, ``xstore``, ``xcrypt``: a block, from a port or computed."""
    _forget(state, state.read_register(operands.destination), 0)
    for name in (operands.accumulator, operands.counter, operands.source, operands.destination):
        operands.set_register(state, name, UNKNOWN)


def _enter(operands: Operands, state: State, instruction: IntelInstruction) -> None:
    """``enter``: with nested frames the pointers to those are pushed, too."""
    size, level = (operand.number if isinstance(operand, Immediate) else 1 for operand in instruction.operands)
    operands.push(state, operands.pointer_bytes, state.read_register(operands.frame_pointer))
    top = state.stack_offset(operands.stack_pointer)
    if top is None or level:
        operands.set_register(state, operands.frame_pointer, UNKNOWN)
        operands.set_register(state, operands.stack_pointer, UNKNOWN)
        return
    operands.set_register(state, operands.frame_pointer, frozenset({StackAddress(top)}))
    operands.set_register(state, operands.stack_pointer, frozenset({StackAddress(top - size)}))


def _push_all(operands: Operands, state: State, _instruction: IntelInstruction) -> None:
    for _ in range(_SAVED_REGISTERS):
        operands.push(state, operands.pointer_bytes, UNKNOWN)


def _pop_all(operands: Operands, state: State, instruction: IntelInstruction) -> None:
    for _ in range(_SAVED_REGISTERS):
        operands.pop(state, operands.pointer_bytes)
    for register in instruction.written:
        if isinstance(register, GeneralRegister) and register.name != operands.stack_pointer:
            operands.write_register(state, register, UNKNOWN)


def _change_accumulator(operands: Operands, state: State, _instruction: IntelInstruction) -> None:
    """``xlatb`` and decimal arithmetic."""
    operands.write_register(state, GeneralRegister(operands.accumulator, 2), UNKNOWN)


def _forget(state: State, pointer: Value, offset: int) -> None:
    """What is in the frame from there on can be anything, too."""
    for atom in pointer:
        if isinstance(atom, StackAddress):
            state.frame.forget_from(atom.offset + offset)


def _with_suffix(names: Sequence[str], suffix: str) -> Sequence[str]:
    return [*names, *(f"{name}{suffix}" for name in names)]


RARE_HANDLERS: Dict[str, Handler] = {
    **dict.fromkeys(_with_suffix(["fxsave", "xsave", "xsavec", "xsaveopt", "xsaves"], "64"), _save),
    **dict.fromkeys(["fsave", "fnsave"], _save),
    **dict.fromkeys(_with_suffix(["fxrstor", "xrstor", "xrstors"], "64"), _restore),
    **dict.fromkeys(
        [f"v{kind}scatter{index}{size}" for kind in ("", "p") for index in "dq" for size in ("d", "q", "ps", "pd")],
        _scatter,
    ),
    **dict.fromkeys(["movdir64b", "enqcmd", "enqcmds"], _store_behind(0)),
    "clzero": _clear_line,
    **dict.fromkeys(["maskmovdqu", "vmaskmovdqu", "maskmovq"], _store_masked),
    **dict.fromkeys([f"ins{unit}" for unit in "bwd"], _fill_from_outside),
    **dict.fromkeys([f"xcrypt{mode}" for mode in ("ecb", "cbc", "ctr", "cfb", "ofb")], _fill_from_outside),
    **dict.fromkeys(["xstore", "xsha1", "xsha256", "montmul"], _fill_from_outside),
    "enter": _enter,
    **dict.fromkeys(["pushal", "pushad"], _push_all),
    **dict.fromkeys(["popal", "popad"], _pop_all),
    **dict.fromkeys(["xlatb", "aaa", "aas", "aad", "aam", "daa", "das", "salc"], _change_accumulator),
}
"""By mnemonic; they are not among those of which the decoder is to read the operands from the text."""
