"""Pages that active and live dumps leave out: those of processes, and those that nobody uses."""

from __future__ import annotations

from typing import FrozenSet, Tuple

from dumps.forge.parts import Parts
from dumps.forge.physical import PAGE_BYTES

_USER_VA, _NARROW_USER_VA = 0x7FF61C2A0000, 0x4A2A0000
_USER_PAGES, _FREE_PAGES = 24, 40


def write_user_pages(parts: Parts) -> Tuple[FrozenSet[int], FrozenSet[int]]:
    """Map pages at user addresses and fill free ones with what they held last; return the frames of both."""
    space, chance = parts.space, parts.chance
    start = _NARROW_USER_VA if parts.kernel.architecture.narrow else _USER_VA
    parts.addresses["user"] = start
    for va in range(start, start + _USER_PAGES * PAGE_BYTES, PAGE_BYTES):
        space.store(va, chance.randbytes(PAGE_BYTES))
    free_frames = [space.frames.take() for _ in range(_FREE_PAGES)]
    for frame in free_frames:
        space.memory.page(frame)[:] = chance.randbytes(PAGE_BYTES)
    used = range(start, start + _USER_PAGES * PAGE_BYTES, PAGE_BYTES)
    return frozenset(space.frame_of(va) for va in used), frozenset(free_frames)
