"""Code that is nothing but a jump to somewhere else: import thunks, long branches, dispatchers.

The few instructions are matched byte by byte, so that to look at a callee costs no disassembler.
"""

from __future__ import annotations

from typing import Optional

from pykdext.attribution.flow.processors import PROCESSORS
from pykdext.attribution.flow.values import Atom
from pykdext.images.image import Image

_THUNK_BYTES = 20
"""Enough for a landing pad (endbr64, bti), a load and a jump."""


def read_thunk(image: Image, rva: int) -> Optional[Atom]:
    """Where the code at ``rva`` jumps at once, or None if it does something else or is not in memory.

    A Constant is a virtual address, an ImageRead a pointer of the image; Unknown: to what a register holds.
    """
    read = PROCESSORS[image.machine].read_thunk
    for size in range(_THUNK_BYTES, 0, -4):
        code = image.read(rva, size)
        if code is not None:
            return read(image, rva, code)
    return None
