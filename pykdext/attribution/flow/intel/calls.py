"""What is known on Intel processors after a called function has returned: registers kept, arguments removed."""

from __future__ import annotations

import functools
import itertools
import re
from typing import Dict, Optional

from pykdext.attribution.flow.arithmetic import displace
from pykdext.attribution.flow.calls import RemovedBytes
from pykdext.attribution.flow.intel.decoder import (
    DECODED_BYTES,
    GeneralRegister,
    Immediate,
    IntelDecoder,
    IntelInstruction,
    MemoryOperand,
)
from pykdext.attribution.flow.intel.operands import RESTING_STACK, Operands
from pykdext.attribution.flow.state import VECTOR_BYTES, State
from pykdext.attribution.flow.thunks import read_thunk
from pykdext.attribution.flow.values import UNKNOWN, UNKNOWN_ATOM, ImageRead, StackAddress, numbers
from pykdext.images.image import Image
from pykdext.images.loadconfig import read_guard_check_slot

MAX_CALLEE_BYTES = 0x1000
"""Code of a called function that is searched for its return instruction, a piece at a time."""

MAX_CALLEES = 256
"""Called functions that are searched for one caller."""

_BYTES_A_LOOK = 0x80

MAX_INSTRUCTIONS_AHEAD = 4
"""How far behind a call the compiler may have put the removal of its arguments."""

MAX_INSTRUCTIONS_TO_CALL = 12
"""How far behind a call the next one is looked for that gets its result."""

_VOLATILE_X64 = ("rax", "rcx", "rdx", "r8", "r9", "r10", "r11")
_ARGUMENTS_X64 = ("rcx", "rdx", "r8", "r9")
_VOLATILE_X86 = ("eax", "ecx", "edx")
_CHANGED_BY_GUARD_CHECK_X86 = ("eax", "edx")
_VOLATILE_VECTORS = {8: 6, 4: 8}
"""How many of the lowest vector registers a callee may change, by pointer size (Microsoft's calling conventions)."""

_MOVE_STACK_BY_ACCUMULATOR = {8: (b"\x48\x2b\xe0", b"\x48\x29\xc4"), 4: (b"\x2b\xe0", b"\x29\xc4")}
"""``sub rsp, rax`` (on x86 of their halves) as MSVC and as LLVM and gcc write it, behind the call that probes the stack
and keeps rax; by pointer size."""

_FRAME_HELPER = re.compile(
    rb"\x68.{4}\x64(?:\xff\x35|\xa1)\0{4}\x50?\x8b\x44\x24\x10\x89\x6c\x24\x10\x8d\x6c\x24\x10", re.DOTALL
)
"""MSVC's function that builds a frame with an exception handler (``__SEH_prolog4`` and its kin), on x86."""

_SAVED_BY_FRAME_HELPER = 24
"""Bytes that it leaves below the pushed arguments, the local variables not counted."""


class CallEffects:
    """The effects of calls in one function."""

    def __init__(self, image: Image, decoder: IntelDecoder, operands: Operands, removed_bytes: RemovedBytes) -> None:
        self._image = image
        self._imported_bytes = removed_bytes
        self._decoder = decoder
        self._operands = operands
        self._base = image.module.base
        self._is_x64 = operands.pointer_bytes == 8
        self._volatile = _VOLATILE_X64 if self._is_x64 else _VOLATILE_X86
        self._returned_bytes: Dict[int, Optional[int]] = {}
        self._adjustments: Dict[int, int] = {}

    def check_guarded_call(self, state: State, instruction: IntelInstruction) -> bool:
        """Do the check of control-flow guard, if that is the call at ``instruction`` on x86.

        It stands between the pushes of another call's arguments and that call, gets the target in ecx, and leaves it
        and the stack as they are.
        """
        operand = instruction.operands[0]
        if self._is_x64 or not isinstance(operand, MemoryOperand) or operand.base or operand.scaled or operand.foreign:
            return False
        if self._guard_check_slot is None or operand.displacement - self._base != self._guard_check_slot:
            return False
        for name in _CHANGED_BY_GUARD_CHECK_X86:
            self._operands.set_register(state, name, UNKNOWN)
        return True

    @functools.cached_property
    def _guard_check_slot(self) -> Optional[int]:
        return read_guard_check_slot(self._image)

    def return_from_call(self, state: State, instruction: IntelInstruction) -> None:
        """Apply the effects of the call at ``instruction``."""
        callee = self._find_callee(state, instruction)
        if self._is_x64:
            for name in _ARGUMENTS_X64:
                state.escape(state.read_register(name))
        elif callee is not None and self._build_frame(state, callee):
            return
        else:
            self._remove_arguments(state, instruction, callee)
        if state.escaped is not None:
            state.frame.forget_from(state.escaped)
        accumulator = self._operands.accumulator
        kept = state.read_register(accumulator) if self._probes_stack(instruction) else UNKNOWN
        for name in self._volatile:
            self._operands.set_register(state, name, UNKNOWN)
        if kept != UNKNOWN:
            self._operands.set_register(state, accumulator, kept)
        vectors = _VOLATILE_VECTORS[self._operands.pointer_bytes]
        for number in range(vectors):
            state.vectors.remove(number * VECTOR_BYTES, VECTOR_BYTES)
        state.table = None

    def _find_callee(self, state: State, instruction: IntelInstruction) -> Optional[int]:
        """The RVA of what is called, if only one number is possible: it stands in the call, or where that reads it."""
        if self._is_x64:
            return None  # nobody asks: no callee removes arguments
        called = numbers(self._operands.read(state, instruction, 0))
        return next(iter(called)) - self._base if called is not None and len(called) == 1 else None

    def _probes_stack(self, instruction: IntelInstruction) -> bool:
        moves = _MOVE_STACK_BY_ACCUMULATOR[self._operands.pointer_bytes]
        return self._image.read(instruction.rva + instruction.size, len(moves[0])) in moves

    def _remove_arguments(self, state: State, instruction: IntelInstruction, callee: Optional[int]) -> None:
        """Set the x86 stack pointer: as the callee is known to do, or the caller does; else nothing pushed stays."""
        stack_pointer = self._operands.stack_pointer
        top, rest = state.stack_offset(stack_pointer), state.stack_offset(RESTING_STACK)
        if top is None:
            return
        removed = self._find_returned_bytes(callee) if callee is not None else None
        if removed is None:
            removed = self._find_imported_bytes(state, instruction, callee)
            if removed == 0:  # its arguments stay until the caller removes them, perhaps those of several calls at once
                state.registers[RESTING_STACK] = state.read_register(stack_pointer)
                return
        if removed is None:
            pushed = rest - top if rest is not None and rest > top else 0
            adjustment = self._find_adjustment(instruction)
            removed = 0 if adjustment > 0 else max(pushed - self._count_awaited(state, instruction), 0)
            if adjustment < 0 and not pushed:
                removed = -adjustment  # room for arguments, made anew because the callee removed it
        pointer = displace(state.read_register(stack_pointer), removed, 4)
        state.registers[stack_pointer] = pointer
        if rest is None or top + removed > rest:
            state.registers[RESTING_STACK] = pointer

    def _find_imported_bytes(self, state: State, instruction: IntelInstruction, callee: Optional[int]) -> Optional[int]:
        """What an imported function removes from the stack, called through its pointer, a register or a thunk."""
        pointers = self._operands.read(state, instruction, 0)
        if callee is not None:
            pointers = frozenset({read_thunk(self._image, callee) or UNKNOWN_ATOM})
        removed = {self._imported_bytes.get(atom.rva) if isinstance(atom, ImageRead) else None for atom in pointers}
        return removed.pop() if len(removed) == 1 else None

    def _count_awaited(self, state: State, instruction: IntelInstruction) -> int:
        """Bytes on the stack that the next call needs besides what is pushed until then.

        They were pushed before the call at ``instruction``, whose result is another argument of the next one.
        """
        rva = instruction.rva + instruction.size
        _, code = next(self._image.iter_range(rva, DECODED_BYTES), (rva, b""))
        pushed = 0
        for following in itertools.islice(self._decoder.decode(code, rva), MAX_INSTRUCTIONS_TO_CALL):
            name = following.name
            first = following.operands[0] if following.operands else None
            if name == "push":
                pushed += self._operands.pointer_bytes
                continue
            if name == "call":
                called = self._find_named_bytes(state, following)
                return max(called - pushed, 0) if called is not None else 0
            is_moved = isinstance(first, GeneralRegister) and first.name == self._operands.stack_pointer
            if is_moved or name in ("pop", "ret", "leave") or name.startswith("j"):
                return 0
        return 0

    def _find_named_bytes(self, state: State, call: IntelInstruction) -> Optional[int]:
        """What the call of an import through its pointer, or of a function of the image, removes."""
        operand = call.operands[0]
        if isinstance(operand, Immediate):
            callee = operand.number - self._base
            removed = self._find_returned_bytes(callee)
            return self._find_imported_bytes(state, call, callee) if removed is None else removed
        if isinstance(operand, MemoryOperand) and operand.base is None and operand.scaled is None:
            return self._imported_bytes.get(operand.displacement - self._base)
        return None

    def _find_adjustment(self, instruction: IntelInstruction) -> int:
        """What the caller adds to the stack pointer right behind the call; 0 if it leaves it alone."""
        if instruction.rva not in self._adjustments:
            self._adjustments[instruction.rva] = self._read_adjustment(instruction.rva + instruction.size)
        return self._adjustments[instruction.rva]

    def _read_adjustment(self, rva: int) -> int:
        _, code = next(self._image.iter_range(rva, DECODED_BYTES), (rva, b""))
        for instruction in itertools.islice(self._decoder.decode(code, rva), MAX_INSTRUCTIONS_AHEAD):
            first = instruction.operands[0] if instruction.operands else None
            if isinstance(first, GeneralRegister) and first.name == self._operands.stack_pointer:
                amount = instruction.operands[-1]
                if isinstance(amount, Immediate) and instruction.name in ("add", "sub"):
                    return amount.number if instruction.name == "add" else -amount.number
                return 0
            if instruction.name == "pop" and isinstance(first, GeneralRegister) and first.name == "ecx":
                return self._operands.pointer_bytes  # shorter than an addition, and ecx is free after a call
            if instruction.name in ("push", "pop", "call", "ret", "leave") or instruction.name.startswith("j"):
                return 0
        return 0

    def _find_returned_bytes(self, callee: int) -> Optional[int]:
        """What a function of this image removes from the stack; None if its return is not found."""
        if not 0 <= callee < self._image.size:
            return None
        if callee not in self._returned_bytes and len(self._returned_bytes) < MAX_CALLEES:
            self._returned_bytes[callee] = self._read_returned_bytes(callee)
        return self._returned_bytes.get(callee)

    def _read_returned_bytes(self, callee: int) -> Optional[int]:
        """Look for the first return in the code as it lies; that of an import's thunk is in another image."""
        rva = callee
        while rva < callee + MAX_CALLEE_BYTES:
            piece_rva, code = next(self._image.iter_range(rva, _BYTES_A_LOOK), (rva, b""))
            size = 0
            for size, mnemonic, operands in self._decoder.iter_texts(code if piece_rva == rva else b"", rva):
                if mnemonic == "ret":
                    return int(operands, 0) if operands else 0
                if mnemonic == "int3" or (mnemonic == "jmp" and operands.startswith("dword")):
                    return None
                rva += size
            if not size:
                return None
        return None

    def _build_frame(self, state: State, callee: int) -> bool:
        """Do what the compiler's frame-building helper does, if that is the callee."""
        code = self._image.read(callee, 32) if 0 <= callee < self._image.size else None
        top = state.stack_offset(self._operands.stack_pointer)
        if code is None or top is None or not _FRAME_HELPER.match(code):
            return False
        local_bytes = numbers(state.read_frame(top + 4, 4))
        if local_bytes is None or len(local_bytes) != 1:
            return False
        (size,) = local_bytes
        frame = frozenset({StackAddress(top + 4)})
        self._operands.set_register(state, self._operands.frame_pointer, frame)
        stack = frozenset({StackAddress(top - _SAVED_BY_FRAME_HELPER - size)})
        self._operands.set_register(state, self._operands.stack_pointer, stack)
        return True
