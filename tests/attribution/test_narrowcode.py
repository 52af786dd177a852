"""x86 code whose functions are cut by bytes that only look like their ends, or whose stack is lost on the way."""

from __future__ import annotations

import struct

import pytest

from pykdext.model import Confidence, Machine
from tests.attribution.calls.test_callees import NARROW_BASES, OTHER_SLOT, SLOT
from tests.attribution.test_lostproof import find

pytest.importorskip("capstone")

BASE = NARROW_BASES[1]
CALL = b"\xff\x15" + struct.pack("<I", BASE + SLOT) + b"\xc3"  # call [ExAllocatePoolWithTag]; ret
OTHER_CALL = b"\xff\x15" + struct.pack("<I", BASE + OTHER_SLOT) + b"\xc3"
SIZE, POOL = b"\x68\x80\1\0\0", b"\x6a\0"  # push 180h; push 0
RESTORE = b"\x8b\x65\xe8"  # mov esp, [ebp-18h]
FRAME, RETURN = b"\x55\x8b\xec", b"\x33\xc0\x5d\xc3"  # push ebp; mov ebp, esp ... xor eax, eax; pop ebp; ret


def push(tag):
    return b"\x68" + tag


def assert_proven(code, *tags):
    for tag in tags:
        assert [item.confidence for item in find(code, tag, Machine.X86)] == [Confidence.PROVEN], tag


def seeming_call(code, target):
    """``code``, and a function with a number that looks like a call of the place at ``target``."""
    code = code.ljust(-(-len(code) // 16) * 16, b"\xcc")
    displacement = struct.pack("<i", target - (len(code) + 6))
    assert displacement[3:] == b"\xff"  # which is the first byte of the call behind the number
    return code + b"\xb8\xe8" + displacement[:3] + OTHER_CALL


def test_bytes_that_look_like_a_call_do_not_cut_an_instruction():
    """push TAG; push; push; xor eax, eax; mov eax, n, across an aligned place; call."""
    code = push(b"Half") + SIZE + POOL + b"\x33\xc0\xb8\x78\x56\x34\x12"
    assert_proven(seeming_call(code + CALL, 16), b"Half")


def test_bytes_that_look_like_a_call_do_not_cut_between_instructions():
    """push TAG; push; push; xor eax, eax; xor ecx, ecx; aligned: call."""
    code = push(b"Fall") + SIZE + POOL + b"\x33\xc0\x33\xc9"
    assert len(code) == 16
    assert_proven(seeming_call(code + CALL, 16), b"Fall")


def test_a_call_before_a_function_may_never_return():
    """call of what does not return; right behind it a function that is called: it is one of its own."""
    wrapper = b"\xff\x74\x24\4" + SIZE + POOL + CALL[:-1] + b"\xc2\4\0"  # push [esp+4]; ...; ret 4
    code = b"\x33\xc0\x33\xc9\x33\xd2\x8b\xc0\x8b\xc9" + OTHER_CALL[:-1]
    assert len(code) == 16
    code = (code + wrapper).ljust(0x40, b"\xcc") + push(b"Whol")
    assert_proven(code + b"\xe8" + struct.pack("<i", 16 - len(code) - 5) + b"\xc3", b"Whol")


@pytest.mark.parametrize("number", [b"\x78\xcc\xcc\x56", b"\x56\xc2\x69\xc0"])
def test_a_number_with_breakpoints_or_a_return_cuts_nothing(number):
    """push TAG; push; push; mov eax, n; call."""
    assert_proven(push(b"Numb") + SIZE + POOL + b"\xb8" + number + b"\x90\x33\xc0" + CALL, b"Numb")


def test_filling_before_a_loop_is_no_function():
    """push TAG; jmp loop; lea esp, [esp+0]; mov edi, edi; loop: push; push; call."""
    code = push(b"Loop") + b"\xeb\x09\x8d\xa4\x24\0\0\0\0\x8b\xff"
    assert len(code) == 16
    assert_proven(code + SIZE + POOL + CALL, b"Loop")


def test_an_exception_handler_pushes_on_a_stack_of_its_own():
    """...; ret; mov esp, [ebp-18h]; push TAG; push; push; call."""
    assert_proven(FRAME + RETURN + RESTORE + push(b"Hand") + SIZE + POOL + CALL, b"Hand")


def test_handlers_that_go_on_together_keep_what_each_pushed():
    """mov esp, [ebp-18h]; push TAG; jmp join; mov esp, [ebp-18h]; push OTHER; join: push; push; call."""
    first, second = RESTORE + push(b"Fst1") + b"\xeb\x08", RESTORE + push(b"Snd2")
    assert_proven(FRAME + RETURN + first + second + SIZE + POOL + CALL, b"Fst1", b"Snd2")


def store_arguments(tag):
    """mov [esp+8], TAG; mov [esp+4], 180h; mov [esp], 0: as gcc hands arguments over."""
    return b"\xc7\x44\x24\x08" + tag + b"\xc7\x44\x24\x04\x80\1\0\0\xc7\x04\x24\0\0\0\0"


def test_arguments_below_a_large_frame_are_seen():
    """mov eax, 1388h; call probe; sub esp, eax; arguments; call: the probe keeps eax."""
    probe = b"\x51\x50\x8d\x4c\x24\x0c\x58\x59\xc3"  # push ecx; push eax; lea ecx, [esp+0Ch]; pop eax; pop ecx; ret
    code = FRAME + b"\xb8\x88\x13\0\0" + b"\xe8" + struct.pack("<i", 0x40 - 13) + b"\x29\xc4"
    code = (code + store_arguments(b"Larg") + CALL).ljust(0x40, b"\xcc")
    assert_proven(code + probe, b"Larg")


def test_arguments_below_room_of_a_size_that_nobody_knows_are_seen():
    """sub esp, ecx; arguments; call, as behind alloca."""
    assert_proven(FRAME + b"\x29\xcc" + store_arguments(b"Allo") + CALL, b"Allo")


@pytest.mark.parametrize("behind", [b"\xc0\xff\xd0\xc3", b"\xc0\x74\x7e\xc3"])
def test_a_text_that_is_read_as_code_is_no_argument(behind):
    """...; ret; the text GetCurrentThread, whose last letters are push 'read'; add al, al; call eax, or je far away."""
    code = FRAME + RETURN + b"GetCurrentThread\0" + behind
    assert find(code, b"read", Machine.X86) == []
    code = FRAME + RETURN + b"\x68Real\0" + behind  # push TAG
    assert [item.confidence for item in find(code, b"Real", Machine.X86)] != []
