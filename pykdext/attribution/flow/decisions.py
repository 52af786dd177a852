"""Which way a conditional jump goes where numbers decide it: code that cannot run is not followed."""

from __future__ import annotations

import operator
from typing import Callable, Mapping, NamedTuple, Optional

from pykdext.attribution.flow.arithmetic import signed
from pykdext.attribution.flow.values import Value, numbers

MAX_PAIRS = 64
"""Pairs of numbers that are compared for one jump."""


class Condition(NamedTuple):
    """What has to hold between two numbers, which may count as signed ones."""

    holds: Callable[[int, int], bool]
    is_signed: bool = False


class Comparison(NamedTuple):
    """The comparison of two values of ``size`` bytes in the instruction before ``next_rva``.

    With ``is_mask`` the bits that they have in common are compared with zero.
    """

    next_rva: int
    left: Value
    right: Value
    size: int
    is_mask: bool = False


def decide(comparison: Optional[Comparison], rva: int, condition: Optional[Condition]) -> Optional[bool]:
    """Whether the jump at ``rva`` is taken always (True) or never (False); None if it may be, or nothing is known."""
    if comparison is None or condition is None or comparison.next_rva != rva:
        return None
    left, right = numbers(comparison.left), numbers(comparison.right)
    if left is None or right is None or len(left) * len(right) > MAX_PAIRS:
        return None
    outcomes = {_holds(condition, comparison, a, b) for a in left for b in right}
    return outcomes.pop() if len(outcomes) == 1 else None


def _holds(condition: Condition, comparison: Comparison, left: int, right: int) -> bool:
    if comparison.is_mask:
        left, right = left & right, 0
    if condition.is_signed:
        return condition.holds(signed(left, comparison.size), signed(right, comparison.size))
    mask = (1 << 8 * comparison.size) - 1
    return condition.holds(left & mask, right & mask)


CONDITIONS: Mapping[str, Condition] = {
    "e": Condition(operator.eq),
    "ne": Condition(operator.ne),
    "b": Condition(operator.lt),
    "ae": Condition(operator.ge),
    "be": Condition(operator.le),
    "a": Condition(operator.gt),
    "l": Condition(operator.lt, is_signed=True),
    "ge": Condition(operator.ge, is_signed=True),
    "le": Condition(operator.le, is_signed=True),
    "g": Condition(operator.gt, is_signed=True),
}
"""By the names that Intel has for them; those of sign, overflow and parity alone are left out."""
