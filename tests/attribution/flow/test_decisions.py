"""Jumps that numbers decide: what cannot run is not followed, what may run is. Codes are GNU as's and LLVM's."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykdext.attribution.flow.decisions import CONDITIONS, Comparison, decide
from pykdext.attribution.flow.values import UNKNOWN, Location, constant, join, numbers
from pykdext.model import Machine
from tests.attribution.flow import test_flow_arm64 as arm64
from tests.attribution.flow.test_flow_intel import ALTR, PIPO, follow

CALL, SKIPPED = "e800100000", "e800200000"
R8 = Location("r8")


def tags_of(code, location=R8, machine=Machine.X64):
    """What each call of the function gets, by the call's order."""
    flow = follow(bytes.fromhex(code), machine)
    assert flow.lost is None
    return [numbers(site.frame.argument(location, 4)) for site in flow.calls]


def load(tag):
    return "41b8" + struct.pack("<I", tag).hex()


@pytest.mark.parametrize(
    ("decision", "is_run"),
    [
        ("31c0 85c0 740b", False),  # xor eax, eax; test eax, eax; je over the call
        ("31c0 85c0 750b", True),  # jne
        ("b801000000 85c0 740b", True),
        ("31c0 83f800 740b", False),  # cmp eax, 0
        ("b805000000 83f805 750b", True),
        ("b805000000 83f804 770b", False),  # ja
        ("b805000000 83f806 730b", True),  # jae
        ("b8ffffffff 83f800 7c0b", False),  # jl: as signed number
        ("b8ffffffff 83f800 720b", True),  # jb: as unsigned one
        ("b8ff000000 3c00 7c0b", False),  # cmp al, 0: a byte
        ("c744242000000000 837c242000 740b", False),  # a flag in the frame, as builds without optimisation have it
        ("c744242001000000 837c242000 740b", True),
        ("b902000000 b803000000 39c8 740b", True),
    ],
)
def test_a_jump_that_numbers_decide(decision, is_run):
    code = "4883ec48" + decision + load(PIPO) + CALL + load(ALTR) + CALL + "4883c448c3"
    assert tags_of(code) == ([{PIPO}, {ALTR}] if is_run else [{ALTR}])


@pytest.mark.parametrize(
    "decision",
    [
        "85c9 740b",  # test ecx, ecx: a parameter
        "31c0 85c9 0f44c1 85c0 740b",  # cmove: one of two
        "31c0 83f800 83c001 740b",  # add between: the flags are others
        "31c0 83f800 780b",  # js: no order of two numbers
        "833d0000000000 740b",  # a variable of the image
    ],
)
def test_a_jump_that_nothing_decides_goes_both_ways(decision):
    code = "4883ec48" + decision + load(PIPO) + CALL + load(ALTR) + CALL + "4883c448c3"
    assert tags_of(code) == [{PIPO}, {ALTR}]


def test_a_flag_whose_address_a_call_got_decides_nothing():
    """lea rcx, [rsp+0x20] before a call."""
    code = "4883ec48 c744242000000000 488d4c2420" + CALL + "837c242000 740b" + load(PIPO) + CALL + load(ALTR) + CALL
    assert tags_of(code + "4883c448c3")[1:] == [{PIPO}, {ALTR}]


def test_a_loop_that_begins_with_a_known_number_goes_on_and_ends():
    """for (i = 0; i < 3; i++): the first comparison decides nothing for the next ones."""
    loop = "31db 83fb03 7d0f" + load(PIPO) + CALL + "ffc3 ebec"
    assert tags_of("4883ec48" + loop + load(ALTR) + CALL + "4883c448c3") == [{PIPO}, {ALTR}]


def test_code_behind_that_a_handler_may_lead_to_is_followed_both_ways():
    """A flag is 0 on all known paths; code that nobody is seen to enter may set it and go back."""
    body = "c744242000000000" + CALL
    check = "837c242000 740b" + load(PIPO) + CALL
    end = load(ALTR) + CALL + "4883c448c3"
    handler = "c744242001000000"
    size = len(bytes.fromhex(check + end + handler)) + 2
    code = "4883ec48" + body + check + end + handler + "eb" + struct.pack("<b", -size).hex()
    assert {PIPO} in tags_of(code) and {ALTR} in tags_of(code)


@pytest.mark.parametrize(
    ("lines", "is_run"),
    [
        (("52800008", "34000088"), False),  # mov w8, #0; cbz w8, +16
        (("52800028", "34000088"), True),
        (("52800008", "35000088"), True),  # cbnz
        (("52800048", "36080088"), True),  # tbz w8, #1
        (("52800048", "36000088"), False),  # tbz w8, #0
        (("52800048", "37080088"), False),  # tbnz w8, #1
        (("52800048", "7100091f", "54000080"), False),  # mov w8, #2; cmp w8, #2; b.eq +16
        (("52800048", "71000d1f", "5400008a"), True),  # cmp w8, #3; b.ge
        (("12800008", "7100011f", "5400008b"), False),  # mov w8, #-1; cmp w8, #0; b.lt
        (("12800008", "7100011f", "54000083"), True),  # b.lo
        (("34000080",), True),  # cbz w0: a parameter
        (("52800048", "7100091f", "7100001f", "54000080"), True),  # another comparison between
        (("52800048", "7a400900", "54000080"), True),  # ccmp: the flags depend on flags
    ],
)
def test_a_branch_that_numbers_decide_on_arm64(lines, is_run):
    swapped = [int(line, 16).to_bytes(4, "little").hex() for line in lines]
    flow = arm64.follow(*swapped, *arm64.PIPO_IN_W2, arm64.CALL, "mov w2, wzr", arm64.CALL)
    found = [numbers(site.frame.argument(Location("x2"), 4)) for site in flow.calls]
    assert found == ([{PIPO}, {0}] if is_run else [{0}])


numbers_of_a_byte = st.lists(st.integers(0, 255), min_size=1, max_size=4)


@given(numbers_of_a_byte, numbers_of_a_byte, st.sampled_from(sorted(CONDITIONS)))
def test_a_decision_holds_for_every_pair(left, right, name):
    """Against the processor's flags: of the difference of two bytes."""
    expected = {_is_taken(name, a, b) for a in left for b in right}
    comparison = Comparison(7, join(*map(constant, left)), join(*map(constant, right)), 1)
    assert decide(comparison, 7, CONDITIONS[name]) == (expected.pop() if len(expected) == 1 else None)
    assert decide(comparison, 8, CONDITIONS[name]) is None
    assert decide(comparison._replace(left=join(comparison.left, UNKNOWN)), 7, CONDITIONS[name]) is None


def _is_taken(name, a, b):
    difference = a - b & 0xFF
    carry, zero, sign = a < b, difference == 0, difference >= 0x80
    overflow = bool((a ^ b) & (a ^ difference) & 0x80)
    return {
        "e": zero,
        "ne": not zero,
        "b": carry,
        "ae": not carry,
        "be": carry or zero,
        "a": not (carry or zero),
        "l": sign != overflow,
        "ge": sign == overflow,
        "le": zero or sign != overflow,
        "g": not zero and sign == overflow,
    }[name]


@pytest.mark.parametrize(
    ("values", "is_kept"),
    [
        (range(8), True),
        (range(9), False),  # a counter
        (range(0xFFFFF80412340000, 0xFFFFF80412340009), False),  # a pointer that moves
        (range(0x82340000, 0x82340009), False),
        (range(PIPO, PIPO + 32), True),  # tags, with the bit of protected pool or not
        (range(PIPO | 1 << 31, (PIPO | 1 << 31) + 32), True),
        (range(PIPO, PIPO + 33), False),
    ],
)
def test_what_a_loop_steps_through_ends_soon_and_many_tags_are_kept(values, is_kept):
    assert (join(*map(constant, values)) != UNKNOWN) == is_kept
