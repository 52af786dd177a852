"""The kernel's linked lists: LIST_ENTRY rings, walked from both ends, and single links.

Memory may be damaged, torn or hostile: nothing is visited twice, every walk has a limit, and a link counts only if it
agrees with the one that led to it. Where a ring is torn it is walked around from the other end; what may be missing
between the two is said.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, List, Optional, Set, Tuple

from pykdext.errors import MemoryReadError

ReadMemory = Callable[[int, int], bytes]
"""Gives all of so many bytes at an address, or raises MemoryReadError."""

NOT_THERE = "it is not in memory"
STRAY = "its link back leads elsewhere"
VISITED = "it was visited before"
TOO_LONG = "the list has no end"


@dataclass(frozen=True)
class ListWalk:
    """The entries of one list, and what is wrong with it.

    Attributes:
        entries: addresses of the links in the list's order, those behind a torn place among them.
        torn_at: the address that ended the walk from the head; None: the list is whole.
        reason: in words why it ended there.
        lost: how many entries are surely missing: 0 for a whole list and for one whose two parts meet; None where
            the parts do not meet, and any number may be missing.
    """

    entries: Tuple[int, ...]
    torn_at: Optional[int] = None
    reason: str = ""
    lost: Optional[int] = 0


@dataclass(frozen=True)
class _End:
    address: int
    reason: str


def walk_list(read: ReadMemory, pointer_bytes: int, head: int, limit: int) -> ListWalk:
    """The entries of the LIST_ENTRY ring with its head at ``head``; at most ``limit``.

    The addresses are those of the entries' links: the structures around them begin at their own distance before.

    Raises:
        MemoryReadError: the head itself is not in memory.
    """
    ring = _Ring(read, pointer_bytes, head, limit)
    flink, blink = ring.links(head)
    forward, end = ring.walk(flink, is_forward=True)
    if end is None and blink == (forward[-1] if forward else head):
        return ListWalk(tuple(forward))
    backward, back_end = ring.walk(blink, is_forward=False)
    whole = (*forward, *reversed(backward))
    if end is None:  # the last entry leads to the head, which leads back to another one
        lost = 0 if back_end is None or not backward or back_end.address in forward else None
        return ListWalk(whole, head, STRAY, lost)
    if TOO_LONG in (end.reason, "" if back_end is None else back_end.reason):
        return ListWalk(whole, end.address, end.reason, None)
    if back_end is None or back_end.address in ring.seen or end.address in backward:
        return ListWalk(whole, end.address, end.reason, 0)
    return ListWalk(whole, end.address, end.reason, 1 if end.address == back_end.address else None)


class _Ring:
    """One ring while it is walked. ``seen``: its head and every entry that was taken."""

    def __init__(self, read: ReadMemory, pointer_bytes: int, head: int, limit: int) -> None:
        self._read = read
        self._pointer_bytes = pointer_bytes
        self._head = head
        self._limit = limit
        self.seen: Set[int] = {head}

    def links(self, address: int) -> Tuple[int, int]:
        """Flink and Blink."""
        data = self._read(address, 2 * self._pointer_bytes)
        size = self._pointer_bytes
        return int.from_bytes(data[:size], "little"), int.from_bytes(data[size:], "little")

    def walk(self, first: int, *, is_forward: bool) -> Tuple[List[int], Optional[_End]]:
        """The entries one way that nobody took before, and what ended the walk; None: it came back to the head."""
        entries: List[int] = []
        previous, address = self._head, first
        while address != self._head:
            if address in self.seen:
                return entries, _End(address, VISITED)
            if len(self.seen) > self._limit:
                return entries, _End(address, TOO_LONG)
            try:
                flink, blink = self.links(address)
            except MemoryReadError:
                return entries, _End(address, NOT_THERE)
            onward, back = (flink, blink) if is_forward else (blink, flink)
            if back != previous:
                return entries, _End(address, STRAY)
            self.seen.add(address)
            entries.append(address)
            previous, address = address, onward
        return entries, None


def walk_chain(
    read: ReadMemory,
    pointer_bytes: int,
    first: int,
    limit: int,
    follow: Callable[[int], int] = lambda link: link,
    end: int = 0,
) -> ListWalk:
    """The entries of a singly linked list whose first one is at ``first``; a link of ``end`` ends it.

    ``follow`` makes an address of what a link holds, e.g. without the count in its low bits. Behind a torn place
    nothing is found: how many entries are lost is not known.
    """
    entries: List[int] = []
    seen: Set[int] = set()
    address = first
    while address != end:
        if address in seen:
            return ListWalk(tuple(entries), address, VISITED, None)
        if len(entries) >= limit:
            return ListWalk(tuple(entries), address, TOO_LONG, None)
        try:
            link = int.from_bytes(read(address, pointer_bytes), "little")
        except MemoryReadError:
            return ListWalk(tuple(entries), address, NOT_THERE, None)
        seen.add(address)
        entries.append(address)
        address = follow(link)
    return ListWalk(tuple(entries))
