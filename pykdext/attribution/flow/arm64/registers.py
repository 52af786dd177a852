"""The registers of ARM64 by capstone's numbers, and how an instruction reads and writes them."""

from __future__ import annotations

from typing import Dict, Iterator, NamedTuple, Optional, Tuple, Union

from capstone import arm64

from pykdext.attribution.flow.cells import part
from pykdext.attribution.flow.state import VECTOR_BYTES, State
from pykdext.attribution.flow.values import UNKNOWN, Value, constant

Q_BYTES = 16
"""A whole vector register."""


class GeneralRegister(NamedTuple):
    """``x0`` or its lower half: the name of the full register (empty: the zero register), and the bytes that count."""

    name: str
    size: int


class VectorRegister(NamedTuple):
    """``q0`` or a lower part of it: its offset in ``State.vectors`` and the bytes that count."""

    offset: int
    size: int


Register = Union[GeneralRegister, VectorRegister]


def _iter_registers() -> Iterator[Tuple[int, Register]]:
    for prefix, size in (("W", 4), ("X", 8)):
        for number in range(31):
            yield getattr(arm64, f"ARM64_REG_{prefix}{number}"), GeneralRegister(f"x{number}", size)
    yield arm64.ARM64_REG_WZR, GeneralRegister("", 4)
    yield arm64.ARM64_REG_XZR, GeneralRegister("", 8)
    yield arm64.ARM64_REG_WSP, GeneralRegister("sp", 4)
    yield arm64.ARM64_REG_SP, GeneralRegister("sp", 8)
    for prefix, size in (("B", 1), ("H", 2), ("S", 4), ("D", 8), ("Q", Q_BYTES), ("V", Q_BYTES)):
        for number in range(32):
            yield getattr(arm64, f"ARM64_REG_{prefix}{number}"), VectorRegister(number * VECTOR_BYTES, size)


_REGISTERS: Dict[int, Register] = dict(_iter_registers())


def find_register(number: int) -> Optional[Register]:
    """The register of capstone's ``number``; None for flags and system registers."""
    return _REGISTERS.get(number)


def read_general(state: State, register: GeneralRegister) -> Value:
    """What the register holds, of the bytes that count."""
    if not register.name:
        return constant(0)
    value = state.read_register(register.name)
    return value if register.size == 8 else part(value, 0, register.size)


def write_general(state: State, register: GeneralRegister, value: Value) -> None:
    """Put ``value`` there; a write of the lower half clears the upper one."""
    if register.name:
        state.registers[register.name] = value


def forget_register(state: State, register: Register) -> None:
    """The register holds anything from now on."""
    if isinstance(register, GeneralRegister):
        write_general(state, register, UNKNOWN)
    else:
        state.vectors.paste(register.offset, Q_BYTES, [])
