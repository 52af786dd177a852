"""Which parts of x86 code are one function: machine code, and where functions begin in it."""

from __future__ import annotations

import pytest

from pykdext.attribution.calls.functions import CodeRoom, FollowedImage
from pykdext.model import Machine
from tests.attribution.calls.test_callees import CODE_RVA, System

pytest.importorskip("capstone")

CONDITION, JUMP = b"\x0f\x84", b"\xe9"  # je, jmp, by 32 bits
FILLER = b"\x8d\xb4\x26\0\0\0\0"  # lea esi, [esi]


def to(instruction, place, target):
    """``instruction`` at ``place`` with the distance to ``target``."""
    return instruction + (target - place - len(instruction) - 4).to_bytes(4, "little", signed=True)


def starts(code):
    image = System(Machine.X86, code=code).driver
    followed = FollowedImage(image, CodeRoom())
    found = {followed.find_bounds(rva) for rva in range(CODE_RVA, CODE_RVA + len(code))}
    return sorted(bounds.start_rva - CODE_RVA for bounds in found if bounds is not None)


def call_from_elsewhere(code, *targets):
    """A function behind ``code`` that calls all ``targets``."""
    code = code.ljust(-(-len(code) // 16) * 16, b"\xcc") + b"\x55\x8b\xec"
    for target in targets:
        code += to(b"\xe8", len(code), target)
    return code + b"\x5d\xc3"


FIRST = b"\x55\x57\x56\x53\x83\xec\x1c"  # push of what is kept; sub esp, 1Ch
BACK = b"\x83\xc4\x1c\x5b\x5e\x5f\x5d\xc3"  # the same undone; ret


def test_an_arm_that_jumps_back_is_of_the_function():
    """..., ret, filling; aligned, as if called: xor eax, eax; jmp into the function."""
    code = (FIRST + b"\x33\xc9" + BACK + FILLER).ljust(32, b"\x90") + b"\x33\xc0"
    code += to(JUMP, len(code), 9)
    assert starts(call_from_elsewhere(code, 32)) == [0, 48]


def test_an_arm_behind_a_condition_is_of_the_function():
    """...; je arm; ret, filling; arm, as if called: ...; ret."""
    code = FIRST + to(CONDITION, 7, 32) + BACK
    code = code.ljust(32, b"\x90") + b"\x33\xc0" + BACK
    assert starts(call_from_elsewhere(code, 32)) == [0, 48]


@pytest.mark.parametrize("filling", [FILLER + b"\x66\x90", b"\xcc" * 9, b"\x90" * 9])
def test_a_function_behind_filling_is_one_of_its_own(filling):
    """...; jmp to it, as the last call; filling; mov eax, [esp+4]; ret."""
    code = FIRST + b"\x83\xc4\x1c\x5b\x5e\x5f\x5d"
    code += to(JUMP, len(code), 32)
    code = (code + filling).ljust(32, filling[-1:]) + b"\x8b\x44\x24\4\xc3"
    assert starts(call_from_elsewhere(code, 32)) == [0, 32, 48]


def test_a_function_behind_a_call_that_does_not_return_is_one_of_its_own():
    code = FIRST + to(b"\xe8", 7, 32)
    code = code.ljust(16, b"\x90") + b"\x8b\x44\x24\4\xc3"
    assert starts(call_from_elsewhere(code, 16)) == [0, 16, 32]
