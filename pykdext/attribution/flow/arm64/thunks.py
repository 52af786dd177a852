"""Jumps of ARM64 code to somewhere else: import thunks, long branches, dispatchers.

Encodings are those of the Arm Architecture Reference Manual.
"""

from __future__ import annotations

import struct
from typing import List, Optional

from pykdext.attribution.flow.arithmetic import signed_field
from pykdext.attribution.flow.values import Atom, ImageRead, Unknown, address_in
from pykdext.images.image import Image

_LANDING_PADS = {0xD503241F, 0xD503245F, 0xD503249F, 0xD50324DF}
_PAGE = 0x1000


def read_thunk(image: Image, rva: int, code: bytes) -> Optional[Atom]:
    """Where the code at ``rva`` jumps at once; None if it does something else."""
    words = [word for (word,) in struct.iter_unpack("<I", code)]
    if words[0] in _LANDING_PADS:
        rva, words = rva + 4, words[1:]
    if words and words[0] >> 26 == 0b000101:  # b
        return address_in(image, rva + 4 * signed_field(words[0], 26))
    if words and _is_jump_register(words[0]):
        return Unknown()
    return _read_sequence(image, rva, words) if len(words) >= 3 else None


def _read_sequence(image: Image, rva: int, words: List[int]) -> Optional[Atom]:
    """``adrp``, then ``ldr`` or ``add``, then ``br``, all of one register."""
    register = words[0] & 31
    operands = (words[1] & 31, words[1] >> 5 & 31, words[2] >> 5 & 31)
    if words[0] & 0x9F000000 != 0x90000000 or not _is_jump_register(words[2]) or set(operands) != {register}:
        return None
    pages = signed_field(words[0] >> 5, 19) * 4 + (words[0] >> 29 & 3)
    page_rva = rva - rva % _PAGE + pages * _PAGE
    unsigned_offset = words[1] >> 10 & 0xFFF
    if words[1] & 0xFFC00000 == 0xF9400000:  # ldr
        return ImageRead(page_rva + 8 * unsigned_offset, 8)
    if words[1] & 0xFFC00000 == 0x91000000:  # add
        return address_in(image, page_rva + unsigned_offset)
    return None


def _is_jump_register(word: int) -> bool:
    return word & 0xFFFFFC1F == 0xD61F0000  # br
